"""Stands before every page: who asks, by which name, from where; and what a browser may do with the answer."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from markupsafe import Markup, escape
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux.web.options import WebOptions
from flux.web.sessions import LASTS, Sessions

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
TOKEN = "x-flux-token"
"""The header in which a proxy gives the token. Not `Authorization`: that has what the proxy itself was given."""
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?\Z")
_OPEN = ("/static/",)
_SAFE = ("GET", "HEAD")


class AuthMiddleware:
    def __init__(self, app: ASGIApp, options: WebOptions, sessions: Sessions) -> None:
        self._app = app
        self._options = options
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope)
        known = request.cookies.get(self._options.cookie, "")
        fresh = not Sessions.is_name(known)
        visitor = Sessions.new() if fresh else known
        state = scope.setdefault("state", {})
        state["visitor"], state["known"] = visitor, self._sessions.may(visitor, request.headers.get(TOKEN))
        path = path_of(request)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if not path.startswith("/static/"):
                    headers["cache-control"] = "no-store"
                    if fresh and not is_from_elsewhere(request) and "set-cookie" not in headers:
                        headers.append("set-cookie", cookie(request, self._options, visitor))
            await send(message)

        refused = self._refused(request, fresh, path)
        await (self._app if refused is None else refused)(scope, receive, answer)

    def _refused(self, request: Request, fresh: bool, path: str) -> Response | None:
        headers = request.headers
        name = name_of(headers.get("host", ""))
        if name is None or (self._options.hosts is not None and name not in self._options.hosts):
            return PlainTextResponse("these pages have another name: see flux web --allow-host", 421)
        site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
        if site in ("cross-site", "same-site") and (mode != "navigate" or request.method not in _SAFE):
            return PlainTextResponse("another site may not ask for this", 403)
        if request.method not in _SAFE and not is_same_origin(request):
            return PlainTextResponse("another site may not send this", 403)
        if fresh and is_from_elsewhere(request):
            return _once_more(request)
        if path == "/login" or path.startswith(_OPEN) or request.state.known:
            return None
        if request.method in _SAFE and mode in ("", "navigate"):
            there = quote(path + _query(request), safe="")
            return RedirectResponse(f"{request.scope.get('root_path', '')}/login?next={there}", 303)
        return PlainTextResponse("log in first", 401)


def path_of(request: Request) -> str:
    """Without what a proxy put before it. Not of the whole address, in which the name that was asked for has a part."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))


def is_same_origin(request: Request) -> bool:
    """By the browser's own word. Every browser of today gives its origin with what it sends."""
    origin = request.headers.get("origin")
    if origin is None:
        return request.headers.get("sec-fetch-site") == "same-origin"
    return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


def is_from_elsewhere(request: Request) -> bool:
    """Whether another site led here. The browser has then kept the cookie back, if there is one."""
    return request.headers.get("sec-fetch-site") == "cross-site"


def _once_more(request: Request) -> Response:
    """A page that leads to itself: this time the browser comes from here, and sends the cookie along."""
    there = escape(here(quote(request.scope["path"]) + _query(request)))
    return HTMLResponse(
        Markup(
            '<!doctype html><html lang="en"><title>flux</title><meta http-equiv="refresh" content="0; url={there}">'
            '<p><a href="{there}">Go on</a></p></html>'
        ).format(there=there)
    )


def here(address: str) -> str:
    """An address of this site, whatever was asked for: a browser takes one that begins with // for another's."""
    fine = address.startswith("/") and not address.startswith("//") and "\\" not in address
    return address if fine and address.isprintable() else "/"


def _query(request: Request) -> str:
    query = request.scope["query_string"].decode("latin-1")
    return f"?{query}" if query else ""


def cookie(request: Request, options: WebOptions, visitor: str) -> str:
    """For this server alone: no script reads it, no other site sends it."""
    path = request.scope.get("root_path", "") or "/"
    secure = "; Secure" if request.scope.get("scheme") == "https" else ""
    return f"{options.cookie}={visitor}; Max-Age={LASTS:.0f}; Path={path}; HttpOnly; SameSite=Strict{secure}"


def name_of(host: str) -> str | None:
    """Without the port; IPv6 without its brackets. None: it is no name."""
    match = _HOST.match(host)
    return None if match is None else (match["six"] or match["name"]).lower()

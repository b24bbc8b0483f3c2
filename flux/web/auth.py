"""Who may see the pages: the check of every request (host name, origin, session), and the sessions of visitors."""

from __future__ import annotations

import hmac
import re
import secrets
from collections import OrderedDict
from urllib.parse import quote, urlsplit

from markupsafe import Markup, escape
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux.core.ports import System
from flux.web.options import WebOptions
from flux.web.users import LOCAL, User

LASTS = 12 * 3600.0
"""Seconds after which a visitor must log in again."""
MOST = 1_000
MAX_FAILURES = 20
"""Wrong tokens per minute, from all visitors, after which further ones are refused."""
_NAME = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_MINUTE = 60.0


class Sessions:
    """A session is a random name in a cookie. Holds which have logged in,
    and proves that a form came from this site."""

    def __init__(self, options: WebOptions, system: System) -> None:
        self._options = options
        self._tokens = options.all_tokens
        self._system = system
        self._secret = secrets.token_bytes(32)
        self._users: OrderedDict[str, tuple[float, User]] = OrderedDict()
        self._failures: list[float] = []

    @staticmethod
    def new() -> str:
        return secrets.token_urlsafe(32)

    @staticmethod
    def is_name(text: str) -> bool:
        return _NAME.match(text) is not None

    def user_of(self, visitor: str, peer: str | None, headers: Headers) -> User | None:
        """Who it is, by what a proxy adds to each request, else by a login; None: no access. `peer`: the address that
        the connection came from."""
        if self._options.open:
            return LOCAL
        proxy = self._options.proxy_login
        user = None if proxy is None else proxy.user(peer, headers)
        token = headers.get(TOKEN)
        if user is None and token is not None:
            return None if self.locked else self._user_with(token)
        if user is None:
            until, user = self._users.get(visitor, (0.0, None))
            return user if until > self._system.monotonic() else None
        return user

    def log_in(self, token: str) -> str | None:
        """The visitor's new name; None: wrong token."""
        user = self._user_with(token)
        if user is None:
            return None
        while len(self._users) >= MOST:
            self._users.popitem(last=False)
        visitor = self.new()
        self._users[visitor] = self._system.monotonic() + LASTS, user
        return visitor

    def log_out(self, visitor: str) -> None:
        self._users.pop(visitor, None)

    def has(self, visitor: str) -> bool:
        """Whether this visitor has logged in with a token."""
        return visitor in self._users

    @property
    def locked(self) -> bool:
        now = self._system.monotonic()
        self._failures = [at for at in self._failures if 0 <= now - at < _MINUTE][-MAX_FAILURES:]
        return len(self._failures) >= MAX_FAILURES

    def proof(self, visitor: str) -> str:
        """A secret in each form of this visitor, which other sites can neither read nor guess."""
        return hmac.digest(self._secret, visitor.encode(), "sha256").hex()

    def proves(self, visitor: str, proof: str) -> bool:
        return hmac.compare_digest(self.proof(visitor).encode(), proof.encode("utf-8", "replace"))

    def _user_with(self, token: str) -> User | None:
        """Counts wrong tokens."""
        found = [each.user for each in self._tokens if each.matches(token)]
        if not found:
            self._failures.append(self._system.monotonic())
        return found[0] if found else None


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
"""The header in which a proxy sends the token. Not `Authorization`, which may hold the proxy's own credentials."""
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
        user = self._sessions.user_of(visitor, request.client and request.client.host, request.headers)
        state["visitor"], state["user"] = visitor, user and self._options.limited(user)
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
            return PlainTextResponse("this host name is not allowed: see flux web --allow-host", 421)
        site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
        if site in ("cross-site", "same-site") and (mode != "navigate" or request.method not in _SAFE):
            return PlainTextResponse("cross-site requests are not allowed", 403)
        if request.method not in _SAFE and not is_same_origin(request):
            return PlainTextResponse("cross-site forms are not allowed", 403)
        if fresh and is_from_elsewhere(request):
            return _reload_page(request)
        if path == "/login" or path.startswith(_OPEN) or request.state.user is not None:
            return None
        if not self._options.all_tokens:
            return PlainTextResponse("no access: log in at the proxy in front of these pages", 403)
        if request.method in _SAFE and mode in ("", "navigate"):
            there = quote(path + _query(request), safe="")
            return RedirectResponse(f"{request.scope.get('root_path', '')}/login?next={there}", 303)
        return PlainTextResponse("log in first", 401)


def path_of(request: Request) -> str:
    """The path without the proxy's prefix. Not from the URL, which contains the Host header."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))


def is_same_origin(request: Request) -> bool:
    """By the Origin header, which every current browser sends with a form."""
    origin = request.headers.get("origin")
    if origin is None:
        return request.headers.get("sec-fetch-site") == "same-origin"
    return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


def is_from_elsewhere(request: Request) -> bool:
    """Whether a link on another site led here: then the browser did not send the cookie."""
    return request.headers.get("sec-fetch-site") == "cross-site"


def _reload_page(request: Request) -> Response:
    """A page that reloads itself: then the browser comes from this site and sends the cookie."""
    there = escape(here(quote(request.scope["path"]) + _query(request)))
    return HTMLResponse(
        Markup(
            '<!doctype html><html lang="en"><title>flux</title><meta http-equiv="refresh" content="0; url={there}">'
            '<p><a href="{there}">Continue</a></p></html>'
        ).format(there=there)
    )


def here(address: str) -> str:
    """A URL of this site, or `/`: a URL that starts with // would be another site's."""
    fine = address.startswith("/") and not address.startswith("//") and "\\" not in address
    return address if fine and address.isprintable() else "/"


def _query(request: Request) -> str:
    query = request.scope["query_string"].decode("latin-1")
    return f"?{query}" if query else ""


def cookie(request: Request, options: WebOptions, visitor: str) -> str:
    """Only for this server: no script reads it, no other site sends it."""
    path = request.scope.get("root_path", "") or "/"
    secure = "; Secure" if _is_https(request) else ""
    return f"{options.cookie}={visitor}; Max-Age={LASTS:.0f}; Path={path}; HttpOnly; SameSite=Strict{secure}"


def _is_https(request: Request) -> bool:
    """By the proxy's header too. Whoever else sends it gets a cookie that its browser does not send back."""
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return "https" in (request.scope.get("scheme"), forwarded)


def name_of(host: str) -> str | None:
    """Without the port, and IPv6 without brackets. None: not a host name."""
    match = _HOST.match(host)
    return None if match is None else (match["six"] or match["name"]).lower()

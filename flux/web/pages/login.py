"""Login with the access token."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from flux.web.auth import cookie, here
from flux.web.page_context import context_of, redirect


async def show(request: Request) -> Response:
    return _page(request, request.query_params.get("next", "/"))


async def log_in(request: Request, fields: dict[str, str]) -> Response:
    context = context_of(request)
    if not context.options.all_tokens:
        raise HTTPException(404, "no token is needed")
    if context.sessions.locked:
        return _page(request, fields.get("next", "/"), "too many wrong tokens: wait a minute", 429)
    visitor = context.sessions.log_in(fields.get("token", ""))
    if visitor is None:
        return _page(request, fields.get("next", "/"), "wrong token", 403)
    answer = redirect(request, here(fields.get("next", "/")))
    answer.headers.append("set-cookie", cookie(request, context.options, visitor))
    return answer


async def log_out(request: Request, fields: dict[str, str]) -> Response:
    context_of(request).sessions.log_out(request.state.visitor)
    return redirect(request, "/login")


def _page(request: Request, following: str, problem: str = "", status: int = 200) -> Response:
    return context_of(request).page(request, "login.html", status, following=here(following), problem=problem)

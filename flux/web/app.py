"""The URLs and their pages, and the server that serves them until it is stopped."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from importlib.resources import files
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from flux.core.errors import BrokerError, ConfigurationError, FluxError
from flux.core.text import one_line
from flux.web import live
from flux.web.auth import AuthMiddleware, path_of
from flux.web.page_context import PageContext, context_of, require
from flux.web.pages import commands, decisions, jobs, login, outbox, records, tasks, waiting, workers
from flux.web.pages import dead_letters as dead_letters
from flux.web.query_parameters import form
from flux.web.users import UserRole

logger = logging.getLogger("flux.web")

Sent = Callable[[Request, dict[str, str]], Awaitable[Response]]

READS = {
    "/": tasks.show_overview,
    "/workers": workers.show,
    "/outbox": outbox.show,
    "/events": live.stream,
    "/login": login.show,
    "/jobs": jobs.list_all,
    "/jobs/{id}": jobs.show,
    "/jobs/{id}/file": jobs.fetch,
    "/tasks/{task}": tasks.show_task,
    "/tasks/{task}/waiting": waiting.show,
    "/tasks/{task}/dead-letters": dead_letters.show,
    "/tasks/{task}/dead-letters/replay": dead_letters.replay_form,
    "/tasks/{task}/dead-letters/purge": dead_letters.purge_form,
    "/tasks/{task}/dead-letters/export": dead_letters.export_form,
    "/tasks/{task}/dead-letters/reject": decisions.reject_form,
    "/tasks/{task}/dead-letters/history": decisions.history,
    "/tasks/{task}/dead-letters/{partition:int}/{offset:int}": dead_letters.show_one,
    "/tasks/{task}/dead-letters/{partition:int}/{offset:int}/edit": decisions.edit_form,
    "/tasks/{task}/records/{stage:int}/{partition:int}/{offset:int}": records.show,
    "/tasks/{task}/trace": records.search,
    "/tasks/{task}/doctor": tasks.show_doctor,
}
CHANGES: dict[str, Sent] = {
    "/tasks/{task}/commands": commands.send,
    "/tasks/{task}/waiting/cancel": waiting.cancel,
    "/tasks/{task}/dead-letters/replay": dead_letters.replay,
    "/tasks/{task}/dead-letters/reject": decisions.reject,
    "/tasks/{task}/dead-letters/{partition:int}/{offset:int}/edit": decisions.edit,
}
"""For operators."""
DELETES: dict[str, Sent] = {
    "/tasks/{task}/dead-letters/purge": dead_letters.purge,
}
"""For administrators."""
SENDS: dict[str, Sent] = {
    "/login": login.log_in,
    "/logout": login.log_out,
    "/jobs/{id}/cancel": jobs.cancel,
    "/tasks/{task}/dead-letters/export": dead_letters.export,
}


def app_of(context: PageContext) -> Starlette:
    routes = [Route(path, page, methods=["GET"]) for path, page in READS.items()]
    for role, pages in ((UserRole.ADMIN, DELETES), (UserRole.OPERATOR, CHANGES), (None, SENDS)):
        routes += [Route(path, _sent(page, role), methods=["POST"]) for path, page in pages.items()]
    app = Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=str(files("flux.web") / "static")), name="static")],
        middleware=[Middleware(AuthMiddleware, options=context.options, sessions=context.sessions)],
        exception_handlers={HTTPException: _refused, FluxError: _failed, Exception: _broken},
        lifespan=context.lifespan,
    )
    app.state.context = context
    return app


def _sent(page: Sent, role: UserRole | None) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        fields = await form(request, context_of(request).sessions)
        if role is not None:
            require(request, role)
        return await page(request, fields)

    return handle


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error_page(request, error.status_code, error.detail)


async def _failed(request: Request, error: Exception) -> Response:
    return _error_page(request, 502 if isinstance(error, BrokerError) else 409, one_line(str(error)))


async def _broken(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, path_of(request), exc_info=error)
    return _error_page(request, 500, f"internal error ({type(error).__name__}): see the log")


def _error_page(request: Request, code: int, problem: str) -> Response:
    if request.state.user is None:  # task names are hidden from visitors who have not logged in
        return PlainTextResponse(problem, code)
    return context_of(request).page(request, "error.html", code, code=code, problem=problem)


_GRACE = 2
"""Seconds for requests in progress when the server stops."""


def listening(host: str, port: int) -> socket.socket:
    """Port 0: any free port. Raises ConfigurationError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None


class WebServer(uvicorn.Server):
    """Ends event streams first, as they would delay the shutdown."""

    def __init__(self, context: PageContext, root_path: str = "") -> None:
        super().__init__(
            uvicorn.Config(
                app_of(context),
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # a login by header depends on the real peer: see users.py
                ws="none",
                lifespan="on",
                root_path=root_path,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._context = context

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._context.broadcast.close()
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """Callable from another thread."""
        self._context.broadcast.close()
        self.should_exit = True


def address_of(listener: socket.socket, host: str, root_path: str = "") -> str:
    """The URL to open: for an address of all interfaces, this machine's."""
    port = listener.getsockname()[1]
    name = "127.0.0.1" if host == "0.0.0.0" else "[::1]" if host == "::" else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}{root_path}/"

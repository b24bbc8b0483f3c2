"""Serves the pages until it is stopped."""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn

from flux.core.errors import ConfigurationError
from flux.web.app import app_of
from flux.web.page_context import PageContext

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
                ws="none",
                lifespan="on",
                root_path=root_path,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._site = context

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._site.broadcast.close()
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """Callable from another thread."""
        self._site.broadcast.close()
        self.should_exit = True


def address_of(listener: socket.socket, host: str, root_path: str = "") -> str:
    """The URL to open: for an address of all interfaces, this machine's."""
    port = listener.getsockname()[1]
    name = "127.0.0.1" if host == "0.0.0.0" else "[::1]" if host == "::" else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}{root_path}/"

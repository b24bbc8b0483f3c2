"""A small HTTP server on a thread of its own, which answers GET with the result of a function."""

from __future__ import annotations

import errno
import logging
import socket
import socketserver
import stat
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs

from flux.core.errors import ConfigurationError

logger = logging.getLogger("flux.observe")

_REQUEST_TIMEOUT = 5.0  # seconds that a client may take for its request


@attrs.frozen
class Answer:
    status: int
    text: str
    kind: str = "text/plain; charset=utf-8"


Routes = Mapping[str, Callable[[], Answer]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: Any, family: int, routes: Routes) -> None:
        self.address_family = family
        self.routes = routes
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The base class looks up this machine's name, which may take long.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        logger.debug("a request for metrics or health broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_TIMEOUT
    server_version, sys_version = "flux", ""

    def do_GET(self) -> None:
        route = self.server.routes.get(self.path.partition("?")[0])
        if route is None:
            answer = Answer(404, f"there are {', '.join(self.server.routes)}\n")
        else:
            try:
                answer = route()
            except Exception:
                logger.exception("%s could not be answered", self.path.partition("?")[0])
                answer = Answer(500, "this could not be answered: see the log\n")
        body = answer.text.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: probes come every few seconds."""


class Server:
    """`port` on `host`, or the path of a Unix socket, which is replaced. Raises ConfigurationError when it cannot be
    used."""

    def __init__(self, port: int | Path, host: str, routes: Routes) -> None:
        self._path = port if isinstance(port, Path) else None
        try:
            if isinstance(port, Path):
                if port.exists() and stat.S_ISSOCK(port.stat().st_mode):
                    port.unlink()  # of a process that was killed
                self._server = _Server(str(port), socket.AF_UNIX, routes)
            else:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                self._server = _Server((host, port), family, routes)
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            remedy = "it is in use, give another" if taken else str(error)
            where = f"port {port} of {host}" if self._path is None else str(port)
            raise ConfigurationError(f"metrics and health cannot be served on {where}: {remedy}") from None
        self.port = 0 if self._path is not None else int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="flux-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

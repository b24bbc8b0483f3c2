"""`/metrics`, `/live` and `/ready` of a worker, by a small HTTP server on a thread of its own.

It answers GET with the result of a function. Probes need no other package.
"""

from __future__ import annotations

import errno
import logging
import socket
import socketserver
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import attrs

from flux.consuming.task_runtime import TaskRuntime
from flux.core.errors import ConfigurationError
from flux.core.monitoring.health import Health

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


METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MISSING = 'metrics need a package: pip install "super-flux[prometheus]"'


class Observed(Protocol):
    """The worker, as far as it is observed."""

    @property
    def jobs(self) -> Sequence[TaskRuntime]: ...
    def health(self) -> Health: ...


@contextmanager
def observing(worker: Observed, port: int | Path, host: str) -> Iterator[None]:
    """A context in which they are served, to be entered before the worker starts, as its handlers are wrapped then.
    Raises ConfigurationError."""
    with ExitStack() as stack:
        text = _metrics(worker, stack)
        server = Server(
            port,
            host,
            {
                "/metrics": lambda: Answer(404, f"{MISSING}\n") if text is None else Answer(200, text(), METRICS_TYPE),
                "/live": lambda: live(worker.health),
                "/ready": lambda: ready(worker.health),
            },
        )
        stack.callback(server.stop)
        if isinstance(port, int):
            logger.info("metrics and health are on port %d of %s", server.port, host)
        yield


def _metrics(worker: Observed, stack: ExitStack) -> Callable[[], str] | None:
    try:
        from flux.observe.prometheus import Metrics
    except ImportError as error:
        if error.name != "prometheus_client":
            raise
        logger.warning("%s", MISSING)
        return None
    metrics = Metrics(registry=None)
    stack.callback(metrics.close)
    metrics.watch(worker)
    return metrics.text


def live(health: Callable[[], Health]) -> Answer:
    found = health()
    return Answer(200 if found.live else 503, _lines(found.troubles))


def ready(health: Callable[[], Health]) -> Answer:
    found = health()
    return Answer(200 if found.ready else 503, _lines([*found.troubles, *found.missing]))


def _lines(reasons: Sequence[str]) -> str:
    return "".join(f"{reason}\n" for reason in reasons) or "ok\n"

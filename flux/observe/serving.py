"""Serves `/metrics`, `/live` and `/ready` of a worker. Probes need no other package."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from flux.consuming.task_runtime import TaskRuntime
from flux.core.monitoring.health import Health
from flux.observe.server import Answer, Server

logger = logging.getLogger("flux.observe")

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

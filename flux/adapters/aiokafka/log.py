"""What aiokafka says, in the log: quiet, bounded, and without secrets. It never goes to stderr by itself."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flux.core.ports import System
from flux.system import SYSTEM

logger = logging.getLogger("flux.kafka")

_INTERVAL = 10.0  # seconds between two warnings of one kind


class ClientLog:
    """Warnings of one client, or of aiokafka as a whole. Nothing here raises."""

    def __init__(self, masked: Callable[[str], str], system: System) -> None:
        self.masked = masked
        self._now = system.now
        self._next: dict[object, float] = {}
        self._silent: dict[object, int] = {}

    def warn(self, kind: object, text: str) -> None:
        """At most one line per kind and interval, the next one with the number left out."""
        now = self._now()
        if now < self._next.get(kind, now):
            self._silent[kind] = self._silent.get(kind, 0) + 1
            return
        self._next[kind] = now + _INTERVAL
        silent = self._silent.pop(kind, 0)
        logger.warning("%s%s", self.masked(text), f" ({silent} more like it)" if silent else "")


class _Forward(logging.Handler):
    """aiokafka logs each retry of each request: an error comes through once in an interval, the rest not at all."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._log = ClientLog(str, SYSTEM)

    def emit(self, record: logging.LogRecord) -> None:
        self._log.warn(record.msg, f"aiokafka: {record.getMessage()}")


def quieten() -> None:
    """Takes over aiokafka's loggers, unless the application has configured them itself. Below INFO they print whole
    requests, the login's included."""
    theirs = logging.getLogger("aiokafka")
    if theirs.level == logging.NOTSET and not theirs.handlers:
        theirs.setLevel(logging.ERROR)
        theirs.addHandler(_Forward())
        theirs.propagate = False

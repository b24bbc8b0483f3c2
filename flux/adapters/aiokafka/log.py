"""What aiokafka says, in the log. It never goes to stderr by itself."""

from __future__ import annotations

import logging

from flux.adapters.warnings import Warnings as ClientLog
from flux.adapters.warnings import logger
from flux.system import SYSTEM


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


__all__ = ["ClientLog", "logger", "quieten"]

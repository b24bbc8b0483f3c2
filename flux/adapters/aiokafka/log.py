"""What aiokafka says, in the log. It never goes to stderr by itself."""

from __future__ import annotations

import logging

from flux.adapters.aiokafka.errors import FINAL, fault_of
from flux.adapters.authentication import ClientWarnings as ClientLog
from flux.adapters.warnings import Warnings, logger
from flux.core.errors import Fault
from flux.system import SYSTEM

_AWAY = ("Unable connect", "Unable to update metadata")


LOG = Warnings(str, SYSTEM)
"""What all of aiokafka's clients say: its loggers are the process'."""


class _Forward(logging.Handler):
    """aiokafka logs each retry of each request: an error of a kind comes through once a minute, the rest not at all."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        if any(isinstance(each, FINAL) for each in _arguments(record)):
            return
        LOG.warn(_kind(record), f"aiokafka: {record.getMessage()}")


def _kind(record: logging.LogRecord) -> str:
    """What it says of brokers that are away is one kind, whatever it had asked them for."""
    given = _arguments(record)
    away = any(isinstance(each, Exception) and fault_of(each) is Fault.UNAVAILABLE for each in given)
    return "away" if away or str(record.msg).startswith(_AWAY) else str(record.msg)


def _arguments(record: logging.LogRecord) -> tuple[object, ...]:
    return record.args if isinstance(record.args, tuple) else ()


def quieten() -> None:
    """Takes over aiokafka's loggers, unless the application has configured them itself. Below INFO they print whole
    requests, the login's included."""
    theirs = logging.getLogger("aiokafka")
    if theirs.level == logging.NOTSET and not theirs.handlers:
        theirs.setLevel(logging.ERROR)
        theirs.addHandler(_Forward())
        theirs.propagate = False


__all__ = ["LOG", "ClientLog", "logger", "quieten"]

"""aiokafka's log records, passed on to flux's log without repeats. None goes to stderr by itself."""

from __future__ import annotations

import logging
import re

from flux.adapters.aiokafka.errors import FINAL, fault_of
from flux.adapters.authentication import ClientWarnings as ClientLog
from flux.adapters.authentication import Warnings, logger
from flux.core.errors import Fault
from flux.system import SYSTEM

_UNAVAILABLE = ("Unable connect", "Unable to update metadata")
_ADDRESS = re.compile(r"[\w\])]:[0-9]{1,5}\b")

LOG = Warnings(str, SYSTEM)
"""For all clients of aiokafka: its loggers belong to the process."""


class _Forward(logging.Handler):
    """aiokafka logs each retry of each request. This passes on errors, one of a kind each minute."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        if any(isinstance(each, FINAL) for each in _arguments(record)):
            return
        LOG.warn(_kind(record), f"aiokafka: {record.getMessage()}")


def _kind(record: logging.LogRecord) -> str:
    """Unavailable brokers are one kind, whatever the request was. A line that names none is another: it must not
    suppress the names for a minute."""
    given = _arguments(record)
    unavailable = any(isinstance(each, Exception) and fault_of(each) is Fault.UNAVAILABLE for each in given)
    if not (unavailable or str(record.msg).startswith(_UNAVAILABLE)):
        return str(record.msg)
    return "unavailable" if _ADDRESS.search(record.getMessage()) else "unavailable, unnamed"


def _arguments(record: logging.LogRecord) -> tuple[object, ...]:
    return record.args if isinstance(record.args, tuple) else ()


def quieten() -> None:
    """Takes over aiokafka's loggers, unless the application has configured them. Below INFO they log whole requests,
    including the login."""
    theirs = logging.getLogger("aiokafka")
    if theirs.level == logging.NOTSET and not theirs.handlers:
        theirs.setLevel(logging.ERROR)
        theirs.addHandler(_Forward())
        theirs.propagate = False


__all__ = ["LOG", "ClientLog", "logger", "quieten"]

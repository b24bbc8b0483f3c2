"""Adds the record to each log line of a call, and logs a line at the end of the call."""

import logging
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import flux

logger = logging.getLogger(__name__)

_ABOUT: ContextVar[Mapping[str, object] | None] = ContextVar("about", default=None)


class About(logging.Filter):
    """A filter for a handler: adds the call's data to every line, as attributes for a JSON formatter."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in (_ABOUT.get() or {}).items():
            record.__dict__.setdefault(name, value)
        return True


def logged(message: flux.Message, call_next: Callable[[flux.Message], Any]) -> None:
    """Middleware."""
    trace = message.headers.get("trace")
    about = {
        "record": message.id,
        "stage": message.stage,
        "attempt": message.attempt,
        "trace": None if trace is None else trace.decode(errors="replace"),
    }
    token, began, outcome = _ABOUT.set(about), time.perf_counter(), "done"
    try:
        call_next(message)
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        took = round((time.perf_counter() - began) * 1000, 1)
        logger.info("%s %s", message.id, outcome, extra={"outcome": outcome, "took_ms": took})
        _ABOUT.reset(token)

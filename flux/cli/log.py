"""A command's log on stderr: lines of time, level and message, or JSON objects."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

from flux.core.error_text import guarded
from flux.core.text import escape
from flux.system.tracebacks import text_of

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
_CHATTY = ("httpx", "httpx2", "httpcore", "httpcore2")
"""Loggers that write a line per request, such as to a schema registry: its URL may hold a password."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Described(logging.Formatter):
    """Survives exceptions whose description fails."""

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "" if ei[1] is None else text_of(ei[1])


class _Formatter(_Described):
    """Names the task, and escapes control characters, as messages may quote records. Times in UTC."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        task = str(vars(record).get("task") or "")
        record.about = "" if record.message.startswith(task) else f"{task}: "
        return super().formatMessage(record)


class _JsonFormatter(_Described):
    """One event per line, with its fields; JSON escapes control characters."""

    def __init__(self, process: int | None) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._process is not None:
            event["process"] = self._process
        event |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in event}
        if event.get("exception"):  # the message ends with it
            event["message"] = record.getMessage().removesuffix(f"\n{event['exception']}")
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            event["stack"] = record.stack_info
        return json.dumps(event, default=lambda value: guarded(lambda: str(value)))


def configure(level: str, process: int | None = None, form: str = "text") -> None:
    """Sets up logging for this process, unless the user's code did. `process`: its number, shown in each line, where
    there are several. `form`: one of `FORMATS`."""
    handler = logging.StreamHandler()
    which = "" if process is None else f"[{process}] "
    handler.setFormatter(
        _JsonFormatter(process)
        if form == "json"
        else _Formatter(f"%(asctime)s %(levelname)-7s {which}%(about)s%(message)s", "%Y-%m-%d %H:%M:%SZ")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level.lower() != "debug":
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)


def quiet() -> None:
    """For commands that print errors themselves."""
    logging.getLogger("flux").addHandler(logging.NullHandler())  # else Python prints warnings

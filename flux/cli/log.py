"""The log of a command: lines of time, level and message on stderr."""

from __future__ import annotations

import logging

from flux.cli.text import escape

LEVELS = ("debug", "info", "warning", "error")


class _Formatter(logging.Formatter):
    """Messages may quote records."""

    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record))


def configure(level: str, process: int | None = None) -> None:
    """For everything in this process, unless the user's own code sets up logging anew. `process`: its number, shown
    in each line, when there are several."""
    handler = logging.StreamHandler()
    which = "" if process is None else f"[{process}] "
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname)-7s {which}%(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def quiet() -> None:
    """For commands that say themselves what went wrong."""
    logging.getLogger("flux").addHandler(logging.NullHandler())  # else Python shows warnings by itself

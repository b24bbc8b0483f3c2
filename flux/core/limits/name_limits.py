"""Limits by name: of the calls for one tenant, host, or what else a function of the user makes of a record.

A record that such a limit holds back lets records of other names pass; records of its own key wait behind it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from flux.core.errors import ConfigurationError
from flux.core.message import Message
from flux.core.validation import shown

NameOf = Callable[[Message[Any]], str | bytes | None]
"""The name for a record, whose value is bytes; None: the limit does not count it."""
LONGEST_NAME = 200
"""Characters of a name; what is longer is cut."""


class Watcher(Protocol):
    """Looks again at a name whose limit has changed."""

    def freed(self, limit: NameLimit, name: str) -> None: ...


class NameLimit(Protocol):
    """One limit, shared by all stages of a task in this process. Times in seconds by the engine's clock."""

    setting: str
    """The setting that gives the names."""
    name_of: NameOf
    watchers: list[Watcher]

    def opens_at(self, name: str, now: float) -> float | None:
        """When the next call for `name` may start; `now` or earlier: at once. None: when `freed` says so."""
        ...

    def started(self, name: str, call: object, now: float) -> None: ...
    def ended(self, name: str, call: object, called: bool) -> str | None:
        """`called`: whether the call was made. Returns what to log."""
        ...


def check_name_of(setting: str, function: object) -> None:
    """Raises ConfigurationError for what is no function that gives names."""
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{setting} = {shown(function)}: give a plain function of the message, or None")


def plain_name(name: str | bytes | None) -> str | None:
    """A name as it is shown. Raises TypeError for what is no name."""
    if name is None:
        return None
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    if not isinstance(name, str):
        raise TypeError(f"gave {type(name).__name__}: make it return str, bytes or None")
    return str(name[:LONGEST_NAME])

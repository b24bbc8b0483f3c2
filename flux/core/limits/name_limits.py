"""Limits by name: of the calls for one tenant, host, or what else a function of the user makes of a record.

A record that such a limit holds back lets records of other names pass; records of its own key wait behind it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import attrs

from flux.core.error_text import brief
from flux.core.errors import ConfigurationError
from flux.core.message import Message
from flux.core.validation import shown

NameOf = Callable[[Message[Any]], str | bytes | None]
"""The name for a record, whose value is bytes; None: the limit does not count it."""
LONGEST_NAME = 200
"""Characters of a name; what is longer is cut."""
_MANY = 20
"""From so many paused names on, they share one kind of log line."""


@attrs.frozen
class NamePaused:
    """An outage pauses the calls for a name. `seconds`: until one of its records is tried; `others`: number of names
    that are paused besides."""

    name: str
    seconds: float
    error: BaseException
    others: int = 0

    @property
    def text(self) -> str:
        next_in = f"the next one in {self.seconds:.1f} s"
        return f"calls for {self.name!r} are paused, others go on; {next_in}: {brief(self.error)}"

    @property
    def kind(self) -> Hashable:
        """Of its log line."""
        return "paused", self.name if self.others < _MANY else None


@attrs.frozen
class NameResumed:
    """Calls for a name go on. `since`: when they were paused, by the engine's clock; `others`: see `NamePaused`."""

    name: str
    since: float
    others: int = 0

    @property
    def text(self) -> str:
        return f"calls for {self.name!r} go on"

    @property
    def kind(self) -> Hashable:
        """Of its log line."""
        return "resumed", self.name if self.others < _MANY else None


class Watcher(Protocol):
    """Looks again at a name whose limit has changed."""

    def freed(self, limit: NameLimit, name: str) -> None: ...
    def names_for(self, limit: NameLimit) -> set[str]:
        """The names, for this limit, of all records that a limit holds back."""
        ...


class NameLimit(Protocol):
    """One limit, shared by all stages of a task in this process. Times in seconds by the engine's clock."""

    setting: str
    """The setting that gives the names."""
    name_of: NameOf
    watchers: list[Watcher]
    pauses: bool
    """Whether an outage of a name is what holds its records back."""

    def opens_at(self, name: str, now: float) -> float | None:
        """When the next call for `name` may start; `now` or earlier: at once. None: when `freed` says so."""
        ...

    def started(self, name: str, call: object, now: float) -> None: ...
    def ended(self, name: str, call: object, called: bool) -> NameResumed | None:
        """`called`: whether the call was made. Returns whether that ends a pause."""
        ...


def check_name_of(setting: str, function: object) -> None:
    """Raises ConfigurationError for what is no function that gives names."""
    awaited = map(inspect.iscoroutinefunction, (function, vars(type(function)).get("__call__")))
    if not callable(function) or any(awaited) or not _takes_one(function):
        raise ConfigurationError(f"{setting} = {shown(function)}: give a plain function of the message, or None")


def _takes_one(function: Callable[..., object]) -> bool:
    """Whether it can be called with one argument, or has no signature, as some functions written in C."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def plain_name(name: str | bytes | None) -> str | None:
    """A name as it is shown. Raises TypeError for what is no name."""
    if name is None:
        return None
    if isinstance(name, bytes):
        name = name[: 4 * LONGEST_NAME].decode("utf-8", "replace")
    if not isinstance(name, str):
        raise TypeError(f"gave {type(name).__name__}: make it return str, bytes or None")
    return str(name[:LONGEST_NAME])

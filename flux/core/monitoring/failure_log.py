"""Decides which failed calls are logged: the first of a kind in full, then counts of those that followed."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import attrs

EVERY = 60.0
"""Seconds between two lines about one kind."""
FORGOTTEN = 600.0
"""A kind counts as new after this many seconds without a failure."""
MOST_KINDS = 200


@attrs.define
class _Kind:
    logged: float
    """When the last line about it was logged."""
    last: float
    more: int = 0
    """Failures since then."""


@attrs.frozen
class Count:
    """`number` more failures of a kind within `seconds`."""

    kind: Any
    number: int
    seconds: float


class FailureLog:
    """Of one stage. `now`: seconds by a monotonic clock."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}

    def add(self, kind: Hashable, now: float) -> bool:
        """Counts a failure. Returns whether it is the first of its kind, to be logged in full."""
        known = self._kinds.get(kind)
        if known is not None:
            known.more += 1
            known.last = now
            return False
        if len(self._kinds) >= MOST_KINDS:
            del self._kinds[min(self._kinds, key=lambda each: self._kinds[each].last)]
        self._kinds[kind] = _Kind(now, now)
        return True

    def counts(self, now: float) -> list[Count]:
        """The counts to log now: at most one per kind in `EVERY` seconds."""
        due = []
        for kind, known in list(self._kinds.items()):
            since = now - known.logged
            if 0 <= since < EVERY:
                continue
            if known.more:
                due.append(Count(kind, known.more, since))
                known.more, known.logged = 0, now
            elif not 0 <= now - known.last < FORGOTTEN:
                del self._kinds[kind]
        return due

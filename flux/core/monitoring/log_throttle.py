"""Throttles repeated log lines.

`LogThrottle`: one line a minute of each kind, with the number of those left out. `FailureLog`, for failed calls: the
first of a kind in full, then counts.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import attrs

EVERY = 60.0
"""Seconds between two lines of one kind."""
MOST_KINDS = 500
FORGOTTEN = 600.0
"""A kind counts as new after this many seconds without a failure."""
MOST_FAILURE_KINDS = 200


class LogThrottle:
    """Safe for threads, except that a race may make a count slightly wrong."""

    __slots__ = ("_left_out", "_next")

    def __init__(self) -> None:
        self._next: dict[object, float] = {}
        self._left_out: dict[object, int] = {}

    def admit(self, kind: object, now: float, number: int = 1) -> int | None:
        """Whether to log a line of a kind that counts for `number`. Returns None to leave it out, else how many were
        left out before it. `now`: seconds by a monotonic clock."""
        if now < self._next.get(kind, now):
            self._left_out[kind] = self._left_out.get(kind, 0) + number
            return None
        if len(self._next) >= MOST_KINDS and kind not in self._next:
            self._forget(min(list(self._next), key=lambda each: self._next.get(each, 0.0)))
        self._next[kind] = now + EVERY
        return self._left_out.pop(kind, 0)

    def _forget(self, kind: object) -> None:
        self._next.pop(kind, None)
        self._left_out.pop(kind, None)


def and_more(left_out: int) -> str:
    """The end of a line: how many were left out before it."""
    return f" ({left_out:,} more like it were left out)" if left_out else ""


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
        if len(self._kinds) >= MOST_FAILURE_KINDS:
            del self._kinds[min(self._kinds, key=lambda each: self._kinds[each].last)]
        self._kinds[kind] = _Kind(now, now)
        return True

    def counts(self, now: float, at_end: bool = False) -> list[Count]:
        """The counts to log now: at most one per kind in `EVERY` seconds; `at_end`: all."""
        due = []
        for kind, known in list(self._kinds.items()):
            since = now - known.logged
            if 0 <= since < EVERY and not at_end:
                continue
            if known.more:
                due.append(Count(kind, known.more, since))
                known.more, known.logged = 0, now
            elif not 0 <= now - known.last < FORGOTTEN:
                del self._kinds[kind]
        return due

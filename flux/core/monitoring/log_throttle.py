"""Throttles repeated log lines: one a minute of each kind, with the number of those left out."""

from __future__ import annotations

EVERY = 60.0
"""Seconds between two lines of one kind."""
MOST_KINDS = 500


class LogThrottle:
    """Safe for threads, except that a race may make a count slightly wrong."""

    __slots__ = ("_every", "_left_out", "_next")

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
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
        self._next[kind] = now + self._every
        return self._left_out.pop(kind, 0)

    def _forget(self, kind: object) -> None:
        self._next.pop(kind, None)
        self._left_out.pop(kind, None)


def and_more(left_out: int) -> str:
    """The end of a line: how many were left out before it."""
    return f" ({left_out:,} more like it were left out)" if left_out else ""

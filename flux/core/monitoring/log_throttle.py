"""Which of the lines that repeat are worth a place in the log: of each kind one a minute, which counts the others."""

from __future__ import annotations

EVERY = 60.0
"""Seconds between two lines of one kind."""
MOST_KINDS = 500


class LogThrottle:
    """Any thread may ask; what two that ask at once may get wrong is a count."""

    __slots__ = ("_every", "_left_out", "_next")

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._next: dict[object, float] = {}
        self._left_out: dict[object, int] = {}

    def admit(self, kind: object, now: float, number: int = 1) -> int | None:
        """There is a line of a kind, about so many. None: it is left out; else how many were left out before it. `now`:
        seconds by a clock that is never set back."""
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
    """What a line says of those that were left out before it."""
    return f" ({left_out:,} more like it were left out)" if left_out else ""

"""Whether calls are quick, so that whoever polls makes them, or slow, so that they are spread over threads.

Handing a record to another thread costs more than a quick call. So a run is worked by one caller until a watcher sees
that it is slow; from then on records are handed out one at a time, until most calls are quick again.
"""

from __future__ import annotations

QUICK = 0.0005
"""Seconds: a call up to this is quick. About 25 times what handing it over costs."""

LEAST_PROGRESS = 10
"""Calls that a quick run makes between two looks of the watcher, `LOOK` seconds apart."""

LOOK = 0.005

CHUNK = 100
"""Entries that one caller takes at once while calls are quick."""

_ENOUGH = 48


class Pace:
    """Slow since a run was stuck, until three of four calls or more are quick for a while."""

    __slots__ = ("_score", "slow")

    def __init__(self) -> None:
        self.slow = False
        self._score = 0

    @property
    def chunk(self) -> int:
        return 1 if self.slow else CHUNK

    def stuck(self) -> None:
        self.slow = True
        self._score = 0

    def took(self, seconds: float, calls: int) -> None:
        """`calls` calls of one caller ended within `seconds`."""
        if not self.slow:
            return
        if seconds <= QUICK * calls:
            self._score += calls
            self.slow = self._score < _ENOUGH
        else:
            self._score = max(0, self._score - 3 * calls)

"""How many calls are in flight in this process, all stages of a task together. The main stage is never starved."""

from __future__ import annotations

from collections.abc import Callable


class ConcurrencyLimit:
    """`total` calls at once. While the main stage is worked here, the others leave it one of them; with a total of
    one, whoever waits has the next turn."""

    __slots__ = ("_main", "_retries", "_total", "_waiting", "used")

    def __init__(self, total: int, main_here: bool) -> None:
        self._total = total
        self._retries = total - 1 if main_here and total > 1 else total
        self._main = 0
        self._waiting: list[int] = []
        self.used = 0

    @property
    def awaited(self) -> bool:
        """Whether there is one, and somebody was refused."""
        return bool(self._waiting) and self.used < self._total

    def take(self, stage: int, comes: Callable[[int], bool] = lambda stage: True) -> bool:
        """Whether `stage` may make a call now. One that was refused has precedence over those that have had one, as
        long as it `comes` for a permit that is free: none is kept for one that is busy elsewhere."""
        free = self._total - self.used
        retries_free = self._retries - (self.used - self._main)
        if free <= 0 or (stage != 0 and retries_free <= 0):
            self._await(stage)
            return False
        before = self._waiting[: self._waiting.index(stage)] if stage in self._waiting else self._waiting
        before = [other for other in before if comes(other)]
        # of those that wait, only as many as may have a permit stand before this one
        ahead = (0 in before) + min(len(before) - (0 in before), retries_free)
        if ahead >= free or (stage != 0 and len(before) - (0 in before) >= retries_free):
            self._await(stage)
            return False
        if stage in self._waiting:
            self._waiting.remove(stage)
        self.used += 1
        self._main += stage == 0
        return True

    def give(self, stage: int) -> None:
        """A call of `stage`, or its try to get one, is over."""
        self.used -= 1
        self._main -= stage == 0

    def forgo(self, stage: int) -> bool:
        """`stage` has nothing to call any more. Whether it had waited."""
        waited = stage in self._waiting
        if waited:
            self._waiting.remove(stage)
        return waited

    def _await(self, stage: int) -> None:
        if stage not in self._waiting:
            self._waiting.append(stage)

"""Limits the calls in flight in this process over all stages of a task, in all and by name. Retry stages cannot starve
the main stage."""

from __future__ import annotations

from collections.abc import Callable

from flux.core.limits.name_limits import NameOf, NameResumed, Watcher


class ConcurrencyLimit:
    """`total` calls at once. If this process runs the main stage, the other stages leave one of them to it; with a
    total of one, stages take turns."""

    __slots__ = ("_main", "_retries", "_total", "_waiting", "used")

    def __init__(self, total: int, main_here: bool) -> None:
        self._total = total
        self._retries = total - 1 if main_here and total > 1 else total
        self._main = 0
        self._waiting: list[int] = []
        self.used = 0

    @property
    def awaited(self) -> bool:
        """Whether a permit is free and a stage that was refused waits for one."""
        return bool(self._waiting) and self.used < self._total

    def take(self, stage: int, comes: Callable[[int], bool] = lambda stage: True) -> bool:
        """Takes a permit for a call of `stage`, if it may have one now. A stage that was refused has precedence over
        stages that were served, if `comes(stage)`: no permit is reserved for a stage that would not take it now."""
        free = self._total - self.used
        retries_free = self._retries - (self.used - self._main)
        if free <= 0 or (stage != 0 and retries_free <= 0):
            self._enqueue(stage)
            return False
        before = self._waiting[: self._waiting.index(stage)] if stage in self._waiting else self._waiting
        before = [other for other in before if comes(other)]
        # of the waiting stages, only those that could be served go before this one
        ahead = (0 in before) + min(len(before) - (0 in before), retries_free)
        if ahead >= free or (stage != 0 and len(before) - (0 in before) >= retries_free):
            self._enqueue(stage)
            return False
        if stage in self._waiting:
            self._waiting.remove(stage)
        self.used += 1
        self._main += stage == 0
        return True

    def give(self, stage: int) -> None:
        """Returns a permit of `stage`."""
        self.used -= 1
        self._main -= stage == 0

    def forgo(self, stage: int) -> bool:
        """`stage` needs no permit any more. Returns whether it was waiting for one."""
        waited = stage in self._waiting
        if waited:
            self._waiting.remove(stage)
        return waited

    def _enqueue(self, stage: int) -> None:
        if stage not in self._waiting:
            self._waiting.append(stage)


class ConcurrencyByName:
    """At most `most` calls at once for each name."""

    __slots__ = ("_calls", "_most", "name_of", "watchers")
    setting = "concurrency_key"
    pauses = False

    def __init__(self, most: int, name_of: NameOf) -> None:
        self.name_of = name_of
        self.watchers: list[Watcher] = []
        self._most = most
        self._calls: dict[str, int] = {}

    def __len__(self) -> int:
        """Number of names in memory."""
        return len(self._calls)

    def opens_at(self, name: str, now: float) -> float | None:
        return now if self._calls.get(name, 0) < self._most else None

    def started(self, name: str, call: object, now: float) -> None:
        self._calls[name] = self._calls.get(name, 0) + 1

    def ended(self, name: str, call: object, called: bool) -> NameResumed | None:
        left = self._calls[name] = self._calls[name] - 1
        if not left:
            del self._calls[name]
        for watcher in self.watchers:
            watcher.freed(self, name)
        return None

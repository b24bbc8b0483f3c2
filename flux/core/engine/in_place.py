"""Retries in place: each record waits for its next call and holds back its key only."""

from __future__ import annotations

import heapq

import attrs

from flux.core.engine.assignment import Assignment
from flux.core.engine.forwards import Failure
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import Verdict


@attrs.frozen(eq=False)
class WaitingInPlace:
    """`verdict` and `failure`: used to forward the record if its retries in place end early. `failed_at`: by the
    engine's clock."""

    entry: Entry
    verdict: Verdict
    failure: Failure
    failed_at: float


class InPlace:
    """Of one stage. Times in seconds by the engine's clock."""

    __slots__ = ("_heap", "_number", "called")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, WaitingInPlace]] = []
        self._number = 0
        self.called: dict[Entry, WaitingInPlace] = {}
        """Records that have waited and whose next call has not ended yet."""

    @property
    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def add(self, waiting: WaitingInPlace, due: float) -> None:
        self._number += 1
        heapq.heappush(self._heap, (due, self._number, waiting))

    def due(self, now: float) -> WaitingInPlace | None:
        """Takes the next record that is due by `now`."""
        if not self._heap or self._heap[0][0] > now:
            return None
        return heapq.heappop(self._heap)[2]

    def take(self, assignment: Assignment | None = None) -> list[WaitingInPlace]:
        """Takes the records of one partition, or all, by due time."""
        taken: list[tuple[float, int, WaitingInPlace]] = []
        left: list[tuple[float, int, WaitingInPlace]] = []
        for item in self._heap:
            (taken if assignment in (None, item[2].entry.assignment) else left).append(item)
        if taken:
            heapq.heapify(left)
            self._heap = left
        return [waiting for _, _, waiting in sorted(taken)]

    def take_readmitted(self, assignment: Assignment | None = None) -> list[WaitingInPlace]:
        """Takes the records that have waited, of one partition or all."""
        taken = [waiting for entry, waiting in self.called.items() if assignment in (None, entry.assignment)]
        for waiting in taken:
            del self.called[waiting.entry]
        return taken

    def forget_done(self) -> None:
        """Removes those whose calls have ended."""
        if self.called:
            self.called = {entry: waiting for entry, waiting in self.called.items() if not entry.done}

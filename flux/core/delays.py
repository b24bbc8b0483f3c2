"""Records that are not due yet, in due order; ties by offset. Bounded per partition."""

from __future__ import annotations

import heapq

from flux.core.assignment import Assignment, Entry


class Delays:
    """What waits in one stage. Times in milliseconds since the epoch."""

    __slots__ = ("_heap", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Entry]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due(self) -> int | None:
        return self._heap[0][0] if self._heap else None

    def add(self, entry: Entry) -> None:
        """`entry.due` and `entry.size` are set."""
        assignment = entry.assignment
        assignment.waiting += 1
        assignment.waiting_bytes += entry.size
        self._number += 1
        heapq.heappush(self._heap, (entry.due, entry.offset, self._number, entry))

    def due(self, now_ms: int) -> Entry | None:
        """Takes out the next entry that is due by `now_ms`."""
        if not self._heap or self._heap[0][0] > now_ms:
            return None
        entry = heapq.heappop(self._heap)[3]
        entry.assignment.waiting -= 1
        entry.assignment.waiting_bytes -= entry.size
        return entry

    def drop(self, assignment: Assignment) -> None:
        """Forgets the entries of one partition."""
        if assignment.waiting:
            self._heap = [item for item in self._heap if item[3].assignment is not assignment]
            heapq.heapify(self._heap)
            assignment.waiting = assignment.waiting_bytes = 0

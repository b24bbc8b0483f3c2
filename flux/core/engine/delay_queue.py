"""Delay queue: records that are not due yet, by due time, ties by offset. `Backpressure` bounds it."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable

from flux.core.engine.assignment import Assignment
from flux.core.engine.slices import Slice
from flux.core.message import Message

_WHOLE = 50
"""Average number of records taken from one slice from which on they stay a slice of their own."""


class _Waiting:
    """A slice whose records before `at` were taken."""

    __slots__ = ("at", "bytes", "piece")

    def __init__(self, piece: Slice, size: int) -> None:
        self.piece = piece
        self.at = 0
        self.bytes = size


_Queue = list[tuple[int, int, int, _Waiting]]
"""A heap by due time and offset of each slice's first record."""


class DelayQueue:
    """Of one stage. Times in milliseconds since the epoch. `merges`: whether few records of each of several slices are
    taken as one slice, which forgets when each was delivered."""

    __slots__ = ("_heads", "_merges", "_number", "_queues", "_waiting", "_withheld")

    def __init__(self, merges: bool = True) -> None:
        self._merges = merges
        self._queues: dict[Assignment, _Queue] = {}
        self._heads: list[tuple[int, int, Assignment]] = []
        """A heap by the due time of each partition's first record; may contain outdated items."""
        self._number = 0
        self._waiting = 0
        self._withheld: dict[Assignment, list[_Waiting]] = {}

    def __len__(self) -> int:
        """Number of records."""
        return self._waiting

    @property
    def next_due(self) -> int | None:
        heads = self._heads
        while heads:
            due, _, assignment = heads[0]
            queue = self._queues.get(assignment)
            if queue and queue[0][0] == due:
                return due
            heapq.heappop(heads)
        return None

    def add(self, assignment: Assignment, piece: Slice, size: int, withheld: bool = False) -> None:
        """Adds a slice with due times. `size`: bytes of its keys and values. `withheld`: it is not due before
        `release`."""
        assignment.waiting += len(piece)
        assignment.waiting_bytes += size
        assignment.waiting_offsets += piece.owned(0, len(piece))
        self._waiting += len(piece)
        waiting = _Waiting(piece, size)
        if withheld:
            self._withheld.setdefault(assignment, []).append(waiting)
        else:
            self._push(assignment, waiting)

    @property
    def withheld(self) -> list[Assignment]:
        """Partitions with withheld records."""
        return list(self._withheld)

    def release(self, assignment: Assignment) -> None:
        """What is withheld of a partition may be due from now on."""
        for waiting in self._withheld.pop(assignment, ()):
            self._push(assignment, waiting)

    def due(self, now_ms: int, most: int) -> tuple[Assignment, list[Slice]] | None:
        """Takes up to `most` records of one partition that are due by `now_ms`, in order. Of the partitions without a
        backlog it takes the one whose first record is due first."""
        passed = []
        while True:
            first = self.next_due
            if first is None or first > now_ms:
                assignment = None
                break
            head = heapq.heappop(self._heads)
            assignment = head[2]
            if not (assignment.backlog or assignment.held):
                break
            passed.append(head)
        for head in passed:
            heapq.heappush(self._heads, head)
        if assignment is None:
            return None
        queue = self._queues[assignment]
        taken: list[tuple[Slice, int, int]] = []
        count = size = 0
        while count < most and queue and queue[0][0] <= now_ms:
            waiting = heapq.heappop(queue)[3]
            piece, start = waiting.piece, waiting.at
            stop = min(_stop(piece, start, now_ms, queue), start + most - count)
            part = waiting.bytes * (stop - start) // (len(piece) - start)
            waiting.at, waiting.bytes = stop, waiting.bytes - part
            count, size = count + stop - start, size + part
            if taken and taken[-1][0] is piece and taken[-1][2] == start:
                taken[-1] = (piece, taken[-1][1], stop)
            else:
                taken.append((piece, start, stop))
            if stop < len(piece):
                self._number += 1
                heapq.heappush(queue, (piece.due_times[stop], piece.records[stop].offset(), self._number, waiting))  # type: ignore[index]
        assignment.waiting -= count
        assignment.waiting_bytes -= size
        assignment.waiting_offsets -= sum(piece.owned(start, stop) for piece, start, stop in taken)
        self._waiting -= count
        if queue:
            self._head(assignment, queue)
        else:
            del self._queues[assignment]
        if not self._merges or len(taken) == 1 or count >= _WHOLE * len(taken):
            return assignment, [piece.part(start, stop) for piece, start, stop in taken]
        return assignment, [_merged(taken)]

    def bring_forward(self, wanted: Callable[[Message], bool], now_ms: int) -> None:
        """Those of the wanted records that would be due later are due at `now_ms`. Looks at all records."""
        for assignment in list(self._queues):
            for *_, waiting in self._queues.pop(assignment):
                piece, left = waiting.piece, range(waiting.at, len(waiting.piece))
                early = [index for index in left if piece.due_times[index] > now_ms and wanted(piece.messages[index])]  # type: ignore[index]
                if not early:
                    self._push(assignment, waiting)
                    continue
                size = waiting.bytes * len(early) // len(left)
                first = piece.selected(sorted(early, key=lambda index: piece.records[index].offset()))
                first.due_times = [now_ms] * len(first)
                self._push(assignment, _Waiting(first, size))
                if len(early) < len(left):
                    late = piece.selected(sorted(set(left).difference(early)))
                    self._push(assignment, _Waiting(late, waiting.bytes - size))

    def drop(self, assignment: Assignment) -> None:
        """Discards the records of one partition."""
        queued, withheld = self._queues.pop(assignment, None), self._withheld.pop(assignment, None)
        if queued is not None or withheld is not None:
            self._waiting -= assignment.waiting
            assignment.waiting = assignment.waiting_bytes = assignment.waiting_offsets = 0

    def _push(self, assignment: Assignment, waiting: _Waiting) -> None:
        queue = self._queues.setdefault(assignment, [])
        self._number += 1
        due, offset = waiting.piece.due_times[waiting.at], waiting.piece.records[waiting.at].offset()  # type: ignore[index]
        heapq.heappush(queue, (due, offset, self._number, waiting))
        if queue[0][3] is waiting:
            self._head(assignment, queue)

    def _head(self, assignment: Assignment, queue: _Queue) -> None:
        self._number += 1
        heapq.heappush(self._heads, (queue[0][0], self._number, assignment))


def _stop(piece: Slice, start: int, now_ms: int, others: _Queue) -> int:
    """The end of the records in a slice that are due, and due before those of other slices."""
    due_times = piece.due_times
    assert due_times is not None
    stop = bisect_right(due_times, now_ms, start)
    if others and others[0][0] <= due_times[stop - 1]:
        due, offset, *_ = others[0]
        behind = piece.records[-1].offset() < offset and piece.ends is None  # the other slice came in a later poll
        stop = min(stop, (bisect_right if behind else bisect_left)(due_times, due, start))
    return max(stop, start + 1)


def _merged(taken: list[tuple[Slice, int, int]]) -> Slice:
    """The taken records as one slice, in due order."""
    made = Slice([], 0, [], [], [])
    for piece, start, stop in taken:
        made.records += piece.records[start:stop]
        made.messages += piece.messages[start:stop]  # type: ignore[operator, index]
        made.due_times += piece.due_times[start:stop]  # type: ignore[operator, index]
        made.ends += map(piece.after, range(start, stop))  # type: ignore[operator]
    return made

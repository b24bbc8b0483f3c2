"""Runs of slices: a whole slice, a part of one beside other runs of its partition, and a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.key_queue import Claim
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.ordering import Queues
from flux.core.engine.runs import NotedFailures, OneCall, Run
from flux.core.engine.slices import Entry, Slice
from flux.core.message import Message


class SliceRun(Run):
    """A run of a slice. Its order satisfies ordering by key, so keys are not read."""

    __slots__ = ("_at", "_divided", "_piece", "assignment")

    records: list[Any]
    entries: None

    def __init__(self, assignment: Assignment, piece: Slice, now: float) -> None:
        super().__init__(len(piece.records), now)
        self.records = piece.records
        self.messages = piece.messages
        self.entries = None
        self.assignment = assignment
        self._piece = piece
        self._at: Entry | None = None
        """The current call when it was cut: its entry in a key queue."""
        self._divided = False

    @property
    def offset(self) -> int:
        return int(self.records[min(self.index, len(self.records) - 1)].offset())

    def assignments(self) -> Iterable[Assignment]:
        return (self.assignment,)

    def settle(self, index: int, key_queues: Queues) -> tuple[int, NotedFailures]:
        start = self.marked
        if start >= index:
            return 0, []
        self.marked = index
        assignment, piece = self.assignment, self._piece
        failed: NotedFailures = []
        at, ranges = start, []
        for number, failure, message in self._noted(index) if self.failures else ():
            if number > at:
                ranges += piece.ranges(at, number)
            failed.append((piece.entry(assignment, number, message), failure))
            at = number + 1
        if at < index:
            ranges += piece.ranges(at, index)
        if ranges and assignment.phase is not Phase.GONE:
            if piece.ends is not None:
                ranges.sort()
            assert assignment.offset_tracker is not None
            assignment.offset_tracker.all_done(ranges)
        return index - start - len(failed), failed

    def part(self, index: int, message: Message, key_queues: Queues) -> Entry:
        self.marked = index + 1
        return self._piece.entry(self.assignment, index, message)

    def divide(self, index: int, key_queues: Queues) -> Slice | None:
        piece = self._piece
        if index >= len(piece.records) or self._divided or self.assignment.phase is Phase.GONE:
            return None
        self._divided = True
        self._at = at = piece.entry(self.assignment, index, piece.message(index))
        key_queues.begin(at)
        return self._rest(index + 1, at) if index + 1 < len(piece.records) else None

    def _rest(self, start: int, at: Entry) -> Slice | None:
        """The records from `start` on, after the current call `at`."""
        return self._piece.part(start)

    def hold_back(self, index: int, message: Message, key_queues: Queues) -> Entry | None:
        self.marked = index + 1
        entry, self._at = self._at, None
        if entry is not None:
            entry.message = message
        return entry

    def finish(self, key_queues: Queues) -> None:
        if self._at is not None:
            key_queues.end(self._at)

    def due_times(self, calls: int) -> list[int]:
        due_times = self._piece.due_times
        return [record.timestamp()[1] for record in self.records[:calls]] if due_times is None else due_times[:calls]


class PartRun(SliceRun):
    """`piece`: the records whose keys `claim` has."""

    __slots__ = ("_claim", "_key_queues", "_own")

    def __init__(self, assignment: Assignment, piece: Slice, claim: Claim, key_queues: KeyQueues, now: float) -> None:
        super().__init__(assignment, piece, now)
        self._claim = claim
        self._key_queues = key_queues
        self._own = len(piece)
        """The run ends the claims of the records before this index."""
        assignment.in_flight += 1

    def settle(self, index: int, key_queues: Queues) -> tuple[int, NotedFailures]:
        start = self.marked
        settled = super().settle(index, key_queues)
        self._key_queues.end_claims(self._claim, start, min(index, self._own))
        return settled

    def part(self, index: int, message: Message, key_queues: Queues) -> Entry:
        self._key_queues.end_claims(self._claim, index, min(index + 1, self._own))
        return super().part(index, message, key_queues)

    def _rest(self, start: int, at: Entry) -> Slice | None:
        free = self._key_queues.give_back_claims(self._claim, self._piece, start, at)
        return self._piece.picked(free) if free else None

    def divide(self, index: int, key_queues: Queues) -> Slice | None:
        rest = super().divide(index, key_queues)
        if self._divided:
            self._own = min(self._own, index)
        return rest

    def finish(self, key_queues: Queues) -> None:
        super().finish(key_queues)
        self.assignment.in_flight -= 1


class WholeBatchRun(OneCall, SliceRun):
    """A batch of a slice."""

    __slots__ = ()

    def hold_back(self, index: int, message: Message, key_queues: Queues) -> Entry | None:
        self.marked = index + 1
        if self.assignment.phase is Phase.GONE:
            return None
        entry = self._piece.entry(self.assignment, index, message)
        key_queues.begin(entry)
        return entry

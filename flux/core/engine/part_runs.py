"""A run of a part of a slice, beside others of its partition. A claim of its keys replaces state for each record."""

from __future__ import annotations

from flux.core.engine.assignment import Assignment
from flux.core.engine.key_queues import Claim, KeyQueues
from flux.core.engine.ordering import Queues
from flux.core.engine.runs import NotedFailures, SliceRun
from flux.core.engine.slices import Entry, Slice
from flux.core.message import Message


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

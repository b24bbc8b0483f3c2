"""A run beside others of its partition: it has taken the keys of its records, and so has no state for each of them."""

from __future__ import annotations

from flux.core.engine.assignment import Assignment, Entry, Slice
from flux.core.engine.key_queues import Claim, Lanes, Queues
from flux.core.engine.runs import NotedFailures, SliceRun
from flux.core.message import Message


class PartRun(SliceRun):
    """`piece`: the records of which `claim` has the keys."""

    __slots__ = ("_claim", "_lanes", "_own")

    def __init__(self, assignment: Assignment, piece: Slice, claim: Claim, lanes: Lanes, now: float) -> None:
        super().__init__(assignment, piece, now)
        self._claim = claim
        self._lanes = lanes
        self._own = len(piece)
        """The claims before this one are its own to end."""
        assignment.flying += 1

    def settle(self, index: int, lanes: Queues) -> tuple[int, NotedFailures]:
        start = self.marked
        settled = super().settle(index, lanes)
        self._lanes.end_claims(self._claim, start, min(index, self._own))
        return settled

    def part(self, index: int, message: Message, lanes: Queues) -> Entry:
        self._lanes.end_claims(self._claim, index, min(index + 1, self._own))
        return super().part(index, message, lanes)

    def _rest(self, start: int, at: Entry) -> Slice | None:
        free = self._lanes.give_back_claims(self._claim, self._piece, start, at)
        return self._piece.picked(free) if free else None

    def divide(self, index: int, lanes: Queues) -> Slice | None:
        rest = super().divide(index, lanes)
        if self._divided:
            self._own = min(self._own, index)
        return rest

    def finish(self, lanes: Queues) -> None:
        super().finish(lanes)
        self.assignment.flying -= 1

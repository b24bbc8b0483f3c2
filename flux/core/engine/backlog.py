"""Slices that were not started: in order within a partition; partitions take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain

from flux.core.engine.assignment import Assignment
from flux.core.engine.slices import Slice


class Backlogs:
    """Of one stage."""

    __slots__ = ("_round", "held")

    def __init__(self) -> None:
        self._round: deque[Assignment] = deque()
        """Partitions with a backlog, the next one first."""
        self.held: dict[Assignment, None] = {}
        """Partitions with records that may not be taken as usual."""

    def __len__(self) -> int:
        """Number of partitions with records that may be taken."""
        return len(self._round)

    def __iter__(self) -> Iterator[Assignment]:
        return iter(self._round)

    @property
    def all(self) -> Iterator[Assignment]:
        """All partitions with a backlog."""
        return chain(self._round, (assignment for assignment in self.held if not assignment.queued))

    @property
    def next(self) -> Assignment:
        """The partition whose turn it is."""
        return self._round[0]

    def add(self, assignment: Assignment, piece: Slice) -> None:
        """Appends a slice to its partition's backlog."""
        assignment.backlogged += len(piece.records)
        if assignment.crashes.opened:
            assignment.backlog.append(piece)
            self._queue(assignment)
        else:
            assignment.held.append(piece)
            self.held[assignment] = None

    def give_back(self, assignment: Assignment, piece: Slice) -> None:
        """Puts a slice that was taken, or its rest, back in order."""
        if assignment.crashes.careful:
            self.hold(assignment, piece)
            return
        assignment.give_back(piece)
        self._queue(assignment)

    def take(self) -> Slice:
        """Takes the first slice of the partition whose turn it is, and passes the turn on."""
        assignment = self._round.popleft()
        assignment.queued = False
        piece = assignment.backlog.popleft()
        assignment.backlogged -= len(piece.records)
        if assignment.backlog:
            self._queue(assignment)
        return piece

    # ---- records that may not be taken as usual: see `crashes.py`

    def release(self, assignment: Assignment, most: int) -> None:
        """Lets the first `most` records of those held be taken as usual."""
        while most > 0 and assignment.held:
            piece = self._unhold(assignment, most)
            assignment.backlog.append(piece)
            most -= len(piece)
            self._queue(assignment)

    def hold(self, assignment: Assignment, piece: Slice) -> None:
        """Puts a slice that was taken from those held back in order."""
        before: list[Slice] = []
        place = piece.place
        while assignment.held and assignment.held[0].place < place:
            before.append(assignment.held.popleft())
        assignment.held.appendleft(piece)
        assignment.held.extendleft(reversed(before))
        assignment.backlogged += len(piece.records)
        self.held[assignment] = None

    def take_held(self, assignment: Assignment) -> Slice:
        """Takes the first record of those held."""
        assignment.backlogged -= 1
        return self._unhold(assignment, 1)

    def _unhold(self, assignment: Assignment, most: int) -> Slice:
        """Up to `most` records of the first slice held."""
        piece = assignment.held.popleft()
        if most < len(piece):
            assignment.held.appendleft(piece.part(most))
        elif not assignment.held:
            del self.held[assignment]
        return piece.part(0, most)

    def replace_next(self, piece: Slice | None) -> None:
        """Puts a slice, or nothing, in the place of the next one of the partition whose turn it is."""
        assignment = self._round[0]
        backlog = assignment.backlog
        assignment.backlogged -= len(backlog.popleft())
        if piece is not None:
            backlog.appendleft(piece)
            assignment.backlogged += len(piece)
        if not backlog:
            self._round.popleft()
            assignment.queued = False

    def pass_on(self) -> None:
        """Passes the turn to the next partition although nothing was taken."""
        self._round.rotate(-1)

    def drop(self, assignment: Assignment) -> None:
        """Discards the slices of one partition."""
        assignment.backlog.clear()
        assignment.held.clear()
        assignment.backlogged = 0
        self.held.pop(assignment, None)
        if assignment.queued:
            self._round.remove(assignment)
            assignment.queued = False

    def _queue(self, assignment: Assignment) -> None:
        if not assignment.queued:
            assignment.queued = True
            self._round.append(assignment)

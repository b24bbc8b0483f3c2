"""Slices that were not started: in order within a partition; partitions take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from flux.core.engine.assignment import Assignment
from flux.core.engine.slices import Slice


class Backlogs:
    """Of one stage."""

    __slots__ = ("_round",)

    def __init__(self) -> None:
        self._round: deque[Assignment] = deque()
        """Partitions with a backlog, the next one first."""

    def __len__(self) -> int:
        """Number of partitions with a backlog."""
        return len(self._round)

    def __iter__(self) -> Iterator[Assignment]:
        return iter(self._round)

    @property
    def next(self) -> Assignment:
        """The partition whose turn it is."""
        return self._round[0]

    def add(self, assignment: Assignment, piece: Slice) -> None:
        """Appends a slice to its partition's backlog."""
        assignment.backlog.append(piece)
        assignment.backlogged += len(piece.records)
        self._queue(assignment)

    def give_back(self, assignment: Assignment, piece: Slice) -> None:
        """Puts a slice that was taken, or its rest, back in order."""
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

    def pass_on(self) -> None:
        """Passes the turn to the next partition although nothing was taken."""
        self._round.rotate(-1)

    def drop(self, assignment: Assignment) -> None:
        """Discards the slices of one partition."""
        assignment.backlog.clear()
        assignment.backlogged = 0
        if assignment.queued:
            self._round.remove(assignment)
            assignment.queued = False

    def _queue(self, assignment: Assignment) -> None:
        if not assignment.queued:
            assignment.queued = True
            self._round.append(assignment)

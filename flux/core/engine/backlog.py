"""Slices that nobody has begun: of a partition in the order of offsets, the partitions by turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from flux.core.engine.assignment import Assignment, Slice


class Backlogs:
    """Of one stage."""

    __slots__ = ("_round",)

    def __init__(self) -> None:
        self._round: deque[Assignment] = deque()
        """Partitions with a backlog, the next to be worked first."""

    def __len__(self) -> int:
        """Partitions that have one."""
        return len(self._round)

    def __iter__(self) -> Iterator[Assignment]:
        return iter(self._round)

    @property
    def next(self) -> Assignment:
        """Whose turn it is."""
        return self._round[0]

    def add(self, assignment: Assignment, piece: Slice) -> None:
        """Puts a slice behind all others of its partition."""
        assignment.backlog.append(piece)
        assignment.backlogged += len(piece.records)
        self._queue(assignment)

    def give_back(self, assignment: Assignment, piece: Slice) -> None:
        """Puts a slice that was taken, or its rest, where it was."""
        assignment.give_back(piece)
        self._queue(assignment)

    def take(self) -> Slice:
        """The first slice of the partition whose turn it is; the next turn is another's."""
        assignment = self._round.popleft()
        assignment.queued = False
        piece = assignment.backlog.popleft()
        assignment.backlogged -= len(piece.records)
        if assignment.backlog:
            self._queue(assignment)
        return piece

    def pass_on(self) -> None:
        """The turn is another's, though nothing was taken."""
        self._round.rotate(-1)

    def drop(self, assignment: Assignment) -> None:
        """Forgets the slices of one partition."""
        assignment.backlog.clear()
        assignment.backlogged = 0
        if assignment.queued:
            self._round.remove(assignment)
            assignment.queued = False

    def _queue(self, assignment: Assignment) -> None:
        if not assignment.queued:
            assignment.queued = True
            self._round.append(assignment)

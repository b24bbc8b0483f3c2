"""One key queue, and a claim on the keys of many records, which takes the place of their key queues."""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import Any

from flux.core.engine.assignment import Assignment
from flux.core.engine.slices import Entry


class KeyQueue:
    """The records of one key (or partition) that wait for the one that is ready or running."""

    __slots__ = ("assignment", "busy", "holds", "name", "queue")

    def __init__(self, assignment: Assignment, name: Any, busy: bool) -> None:
        self.assignment = assignment
        self.name = name
        self.queue: deque[Entry] = deque()
        self.busy = busy
        self.holds = 0

    def insert(self, entry: Entry) -> None:
        """Puts an entry that was taken back in order."""
        before = takewhile(lambda other: _place(other) < _place(entry), self.queue)
        self.queue.insert(sum(1 for _ in before), entry)

    def is_led_by_earlier(self, entry: Entry) -> bool:
        """Whether the queue begins with an earlier record that is retried in place."""
        return bool(self.queue and self.queue[0].tries and _place(self.queue[0]) < _place(entry))


class Claim:
    """The keys of records that one caller processes in order. A key that no other record waits for has this claim
    instead of a key queue."""

    __slots__ = ("assignment", "indices", "last", "names", "stop")
    queue = ()

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.indices: list[int] = []
        """The claimed records' indices in their slice."""
        self.names: list[Any] = []
        """The names of their key queues; None: the record has no order."""
        self.last: dict[Any, int] = {}
        """By name, the last claimed record."""
        self.stop = 0
        """The end of the records in the slice that were looked at."""


def _place(entry: Entry) -> tuple[int, int]:
    """(due time, offset): the order within a partition."""
    return entry.due, entry.offset

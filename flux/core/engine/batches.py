"""Batches for tasks whose calls take many records: of one partition each, one in flight per partition.

Replaces key queues, with the same methods. A batch can be taken when it is full or its first record has waited
`OpenBatch.wait`. Records of a held key stay in the queue, in order; the others can be taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.ordering import Ordering, key_queue_name
from flux.core.engine.slices import Entry
from flux.core.validation import plainly, seconds

MOST_BATCH = 10_000
"""Limit of `OpenBatch.most`."""
_ROUNDING = 0.001
"""Seconds by which a due time may seem later than the moment at which it was found due."""


@attrs.frozen(field_transformer=plainly)
class OpenBatch:
    """`most`: records per call; `wait`: seconds that the first of them waits for others."""

    most: int = 100
    wait: float = attrs.field(default=1.0, converter=seconds)


class Batches:
    """Of one stage, over all of its partitions."""

    __slots__ = ("_batch", "_held", "_ordering", "_queues")

    def __init__(self, batch: OpenBatch, ordering: Ordering) -> None:
        self._batch = batch
        self._ordering = ordering
        self._queues: dict[Assignment, deque[Entry]] = {}
        """Entries by offset, or by due time; the partition whose turn it is comes first."""
        self._held: dict[Any, int] = {}

    def __bool__(self) -> bool:
        """Whether any entry is queued."""
        return bool(self._queues)

    def __len__(self) -> int:
        """Entries that have not been taken."""
        return sum(map(len, self._queues.values()))

    def ready(self, now: float) -> int:
        """Number of batches that can be taken."""
        return sum(self._can_be_taken(assignment, queue, now) for assignment, queue in self._queues.items())

    def deadline(self, probes: bool = True) -> float | None:
        """When the next batch that is not full can be taken."""
        free = [self._free(queue) for assignment, queue in self._queues.items() if not assignment.running]
        return min((self._closes_at(entries) for entries in free if entries), default=None)

    def add(self, entry: Entry) -> None:
        """Appends `entry`, whose `since` is set, to its partition's queue."""
        entry.assignment.in_key_queues += 1
        self._queues.setdefault(entry.assignment, deque()).append(entry)

    def add_first(self, entry: Entry) -> None:
        """Puts `entry` back in order: it is to be called again."""
        entry.assignment.in_key_queues += 1
        self._put_back([entry])

    def begin(self, entry: Entry) -> None:
        """Counts an entry whose call is running already."""
        entry.assignment.in_key_queues += 1
        entry.assignment.in_flight += 1

    def take(self, most: int, now: float) -> list[Entry]:
        """Takes the records of the next call; empty if there is no batch. `most`: calls, 1 or more."""
        for assignment, queue in list(self._queues.items()):
            if not self._can_be_taken(assignment, queue, now):
                continue
            taken = self._draw(assignment, queue)
            del self._queues[assignment]
            if queue:
                self._queues[assignment] = queue
            if taken:
                return taken
        return []

    def give_back(self, entries: list[Entry]) -> None:
        """Puts back entries that were taken and are to be called again."""
        for entry in entries:
            entry.assignment.in_flight -= 1
        self._put_back(entries)

    def retry_aside(self) -> None:
        """Does nothing: entries that the metadata has no room for stay in the queue."""

    def end(self, entry: Entry) -> None:
        """The call of `entry` has ended."""
        entry.assignment.in_key_queues -= 1
        entry.assignment.in_flight -= 1

    def hold(self, entry: Entry) -> None:
        """Holds back the key of `entry` until `release`."""
        entry.assignment.in_key_queues += 1
        name = key_queue_name(self._ordering, entry)
        if name is not None:
            self._held[name] = self._held.get(name, 0) + 1

    def release(self, entry: Entry) -> None:
        """Ends one `hold`."""
        entry.assignment.in_key_queues -= 1
        name = key_queue_name(self._ordering, entry)
        if name in self._held:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    def drop(self, assignment: Assignment) -> None:
        """Discards the entries of `assignment` that were not taken."""
        self._queues.pop(assignment, None)
        self._held = {name: holds for name, holds in self._held.items() if assignment is not _owner(name)}

    def _can_be_taken(self, assignment: Assignment, queue: deque[Entry], now: float) -> bool:
        if assignment.running:
            return False
        free = self._free(queue)
        if not free:
            return False
        since = free[0].since - _ROUNDING
        if len(free) < self._batch.most and since <= now < self._closes_at(free):  # earlier: the clock was set back
            return False
        offset_tracker, others = assignment.offset_tracker, assignment.in_flight + len(assignment.open)
        assert offset_tracker is not None
        return any(
            offset_tracker.admits(entry.end, others) or entry.offset == offset_tracker.committable for entry in free
        )

    def _closes_at(self, free: Sequence[Entry]) -> float:
        """When these entries can be taken although they are few. Callers compare times with this very sum, because a
        difference may round in another way."""
        return free[0].since + self._batch.wait

    def _free(self, queue: deque[Entry]) -> Sequence[Entry]:
        """The entries whose key is not held."""
        if not self._held:
            return queue
        return [entry for entry in queue if key_queue_name(self._ordering, entry) not in self._held]

    def _draw(self, assignment: Assignment, queue: deque[Entry]) -> list[Entry]:
        offset_tracker = assignment.offset_tracker
        assert assignment.phase is Phase.WORKING
        assert offset_tracker is not None
        taken: list[Entry] = []
        passed: list[Entry] = []
        stay = set(self._held)
        while queue and len(taken) < self._batch.most:
            entry = queue.popleft()
            name = key_queue_name(self._ordering, entry)
            others = assignment.in_flight + len(assignment.open)
            if name in stay:
                passed.append(entry)
            elif offset_tracker.admits(entry.end, others) or self._leads_to(
                entry, name, queue, offset_tracker.committable
            ):
                assignment.in_flight += 1
                taken.append(entry)
            else:
                passed.append(entry)
                if name is not None:
                    stay.add(name)
        queue.extendleft(reversed(passed))
        return taken

    def _leads_to(self, entry: Entry, name: Any, behind: Iterable[Entry], committable: int) -> bool:
        """As `KeyQueues._leads_to`: the committable offset cannot move before `entry` has ended."""
        if entry.offset == committable:
            return True
        return name is not None and any(
            other.offset == committable and key_queue_name(self._ordering, other) == name for other in behind
        )

    def _put_back(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            queue = self._queues.get(entry.assignment, ())
            self._queues[entry.assignment] = deque(sorted([entry, *queue], key=lambda each: (each.due, each.offset)))


def _owner(name: Any) -> Any:
    return name[0] if isinstance(name, tuple) else name

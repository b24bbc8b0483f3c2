"""A partition's life with this member, from assignment to loss, as a transition table.

Each assignment is an object of its own: what ends later than its generation still points at the old one, which is
GONE, and so can neither commit nor move a record.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from flux.core import flux_headers as trail
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.message import Message
from flux.core.ports import BEGINNING, CommittedOffset, TopicPartition


class Phase(enum.Enum):
    WORKING = "working"
    DRAINING = "draining"
    """Being revoked: nothing new starts, what is in flight may still end and count."""
    GONE = "gone"


class Event(enum.Enum):
    REVOKING = "revoking"
    REVOKED = "revoked"
    LOST = "lost"


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.WORKING, Event.REVOKING): Phase.DRAINING,
    (Phase.WORKING, Event.LOST): Phase.GONE,
    (Phase.DRAINING, Event.REVOKING): Phase.DRAINING,
    (Phase.DRAINING, Event.REVOKED): Phase.GONE,
    (Phase.DRAINING, Event.LOST): Phase.GONE,
}


class Entry:
    """One record that is tracked on its own, since its run was split or it waits."""

    __slots__ = ("assignment", "due", "end", "key_queue", "message", "offset", "since", "tries", "waits")

    def __init__(self, assignment: Assignment, message: Message, offset: int, end: int) -> None:
        self.assignment = assignment
        self.message = message
        self.offset = offset
        self.end = end
        """The offset of the next record that was delivered: this one owns [offset, end)."""
        self.key_queue: Any = None
        self.due = 0
        """Milliseconds since the epoch."""
        self.since = 0.0
        """When it could be called, as far as time goes; seconds since the epoch."""
        self.tries = 0
        """In place, after the first call here."""
        self.waits = False
        """For the next of them."""

    @property
    def done(self) -> bool:
        offset_tracker = self.assignment.offset_tracker
        return offset_tracker is not None and offset_tracker.is_done(self.offset)

    def __repr__(self) -> str:
        return f"<Entry {self.assignment.partition}@{self.offset}>"


class Slice:
    """Records of one partition that nobody has begun: of a main topic in the order of offsets, of a retry topic in the
    order of due time, ties by offset."""

    __slots__ = ("dues", "end", "ends", "messages", "records", "since")

    def __init__(
        self,
        records: list[Any],
        end: int,
        messages: list[Message] | None = None,
        dues: list[int] | None = None,
        ends: list[int] | None = None,
    ) -> None:
        self.records = records
        self.end = end
        """After the last offset: where the next delivered record begins, if it is known."""
        self.messages = messages
        """Made of the records, in a retry stage."""
        self.dues = dues
        """Likewise, in milliseconds since the epoch."""
        self.ends = ends
        """Up to which offset each record owns the log; None: to that of the next record, as they are in that order."""
        self.since = 0.0
        """When they could be called, as far as time goes; by the clock of the engine's `now`."""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def size(self) -> int:
        """Bytes of its keys and values."""
        return sum(len(record.value() or b"") + len(record.key() or b"") for record in self.records)

    @property
    def place(self) -> tuple[int, int]:
        """Of its first record, in the order of its partition."""
        return 0 if self.dues is None else self.dues[0], self.records[0].offset()

    def part(self, start: int, stop: int | None = None) -> Slice:
        """Its records from `start` on, to before `stop`."""
        if stop is None or stop >= len(self.records):
            stop, end = len(self.records), self.end
        else:
            end = self.records[stop].offset() if self.ends is None else self.end
        part = Slice(
            self.records[start:stop],
            end,
            None if self.messages is None else self.messages[start:stop],
            None if self.dues is None else self.dues[start:stop],
            None if self.ends is None else self.ends[start:stop],
        )
        part.since = self.since
        return part

    def after(self, index: int) -> int:
        """The offset up to which record `index` owns the log."""
        if self.ends is not None:
            return self.ends[index]
        records = self.records
        return int(records[index + 1].offset()) if index + 1 < len(records) else self.end

    def picked(self, indices: Sequence[int]) -> Slice:
        """Some of its records, one at least."""
        first, last = indices[0], indices[-1]
        if last - first + 1 == len(indices):
            return self.part(first, last + 1)
        part = Slice(
            [self.records[index] for index in indices],
            0,
            None if self.messages is None else [self.messages[index] for index in indices],
            None if self.dues is None else [self.dues[index] for index in indices],
            [self.after(index) for index in indices],
        )
        part.since = self.since
        return part

    def ranges(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The offsets that the records from `start` to before `stop` own."""
        if self.ends is None:
            return [(self.records[start].offset(), self.after(stop - 1))]
        ranges: list[tuple[int, int]] = []
        first = last = -1
        for record, end in zip(self.records[start:stop], self.ends[start:stop], strict=True):
            offset = record.offset()
            if offset != last:
                if last >= 0:
                    ranges.append((first, last))
                first = offset
            last = end
        ranges.append((first, last))
        return ranges

    def message(self, index: int) -> Message:
        """Record `index` as a call gets it."""
        if self.messages is not None:
            return self.messages[index]
        record = self.records[index]
        return Message.of(record, record.value(), trail.start())

    def entry(self, assignment: Assignment, index: int, message: Message) -> Entry:
        """Record `index`, to be tracked on its own."""
        entry = Entry(assignment, message, self.records[index].offset(), self.after(index))
        entry.since = self.since
        if self.dues is not None:
            entry.due = self.dues[index]
        return entry


class Assignment:
    """One partition, as long as this member owns it."""

    __slots__ = (
        "backlog",
        "backlogged",
        "committed",
        "flying",
        "jitter",
        "laned",
        "max_metadata",
        "offset_tracker",
        "open",
        "partition",
        "paused",
        "phase",
        "queued",
        "restored",
        "running",
        "start",
        "waiting",
        "waiting_bytes",
    )

    def __init__(
        self,
        partition: TopicPartition,
        start: int,
        done: list[tuple[int, int]],
        committed: CommittedOffset | None,
        jitter: int,
        max_metadata: int,
    ) -> None:
        self.partition = partition
        self.phase = Phase.WORKING
        self.max_metadata = max_metadata
        self.offset_tracker = None if start == BEGINNING else OffsetTracker(start, done, max_metadata)
        """None until the first record tells where the partition begins."""
        self.restored = done[-1][1] if done else 0
        """Below this offset records may come that another owner has done."""
        self.committed = committed
        self.start = start
        self.jitter = jitter
        """The random part of the default waits, 0 … 29."""
        self.backlog: deque[Slice] = deque()
        self.backlogged = 0
        """Records in the backlog."""
        self.queued = False
        """Whether the engine has it in its round of partitions with a backlog."""
        self.running: dict[object, None] = {}
        """Runs that have calls of it."""
        self.laned = 0
        """Entries in key queues, running ones and held keys included."""
        self.flying = 0
        """Of them, those that a caller has taken; and runs beside them."""
        self.open: dict[Entry, None] = {}
        """Called, and not settled yet: on their way to the next stage, or waiting for what they produced."""
        self.waiting = 0
        self.waiting_bytes = 0
        self.paused = False

    def __repr__(self) -> str:
        return f"<Assignment {self.partition} {self.phase.value}>"

    def to(self, event: Event) -> None:
        self.phase = TRANSITIONS[self.phase, event]

    @property
    def position(self) -> CommittedOffset | None:
        """What may be committed now; None while nothing is known."""
        if self.offset_tracker is None:
            return None
        return CommittedOffset(self.offset_tracker.position, self.offset_tracker.metadata())

    def read_to(self, end: int) -> bool:
        """Nothing comes any more of the offsets below `end` that was not delivered. Whether that moves the position."""
        if self.offset_tracker is None:
            self.offset_tracker = OffsetTracker(end, (), self.max_metadata)
            return True
        before = self.offset_tracker.position
        self.offset_tracker.delivered(end, end)
        return self.offset_tracker.position != before

    def give_back(self, piece: Slice) -> None:
        """A slice that was taken from the backlog, or its rest: back in the order of its partition."""
        before: list[Slice] = []
        place = piece.place
        while self.backlog and self.backlog[0].place < place:
            before.append(self.backlog.popleft())
        self.backlog.appendleft(piece)
        self.backlog.extendleft(reversed(before))
        self.backlogged += len(piece.records)

    def deliver(self, records: list[Any]) -> Iterator[Slice]:
        """Slices of the records that are neither done nor here already; tells the offset tracker of all of them."""
        first, last = records[0].offset(), records[-1].offset()
        if self.offset_tracker is None:
            self.offset_tracker = OffsetTracker(first, (), self.max_metadata)
        offset_tracker, before = self.offset_tracker, self.offset_tracker.end
        if first >= before and first >= self.restored:
            offset_tracker.delivered(first, last + 1)
            yield Slice(records, last + 1)
            return
        if first < before:
            records = [record for record in records if record.offset() >= before]
            if not records:
                return
        offset_tracker.delivered(records[0].offset(), last + 1)
        start = None
        for index, record in enumerate(records):
            if offset_tracker.is_done(record.offset()):
                if start is not None:
                    yield Slice(records[start:index], record.offset())
                start = None
                # the other owner may not have known how far the gap behind it reaches
                offset_tracker.done(
                    record.offset(), records[index + 1].offset() if index + 1 < len(records) else last + 1
                )
            elif start is None:
                start = index
        if start is not None:
            yield Slice(records[start:], last + 1)

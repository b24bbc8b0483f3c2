"""The state of an assigned partition, from assignment to revocation or loss, as a transition table.

Each new assignment is a new object. A call that ends after the rebalance still refers to the old object, which is GONE,
and so can neither commit nor forward a record.
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
    """Being revoked: no new calls; calls in flight may still end and be committed."""
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
    """One record that is tracked individually, because its run was split or it waits."""

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
        """When it became due, in seconds by the engine's clock."""
        self.tries = 0
        """Retries in place so far."""
        self.waits = False
        """Whether it waits for the next retry in place."""

    @property
    def done(self) -> bool:
        offset_tracker = self.assignment.offset_tracker
        return offset_tracker is not None and offset_tracker.is_done(self.offset)

    def __repr__(self) -> str:
        return f"<Entry {self.assignment.partition}@{self.offset}>"


class Slice:
    """Records of one partition that were not started: in offset order in the main stage; in a retry stage by due time,
    ties by offset."""

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
        """The offset after the last record: that of the next delivered record, if known."""
        self.messages = messages
        """The records' messages, in a retry stage."""
        self.dues = dues
        """Due times in milliseconds since the epoch, in a retry stage."""
        self.ends = ends
        """The end of the offsets that each record owns; None: the next record's offset, as they are in offset order."""
        self.since = 0.0
        """When they became due, in seconds by the engine's clock."""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def size(self) -> int:
        """Bytes of the keys and values."""
        return sum(len(record.value() or b"") + len(record.key() or b"") for record in self.records)

    @property
    def place(self) -> tuple[int, int]:
        """(due time, offset) of the first record: sorts the slices of a partition."""
        return 0 if self.dues is None else self.dues[0], self.records[0].offset()

    def part(self, start: int, stop: int | None = None) -> Slice:
        """The records from `start` to before `stop`; None: to the end."""
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
        """The end of the offsets that record `index` owns."""
        if self.ends is not None:
            return self.ends[index]
        records = self.records
        return int(records[index + 1].offset()) if index + 1 < len(records) else self.end

    def picked(self, indices: Sequence[int]) -> Slice:
        """The records at `indices`, at least one."""
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
        """The offset ranges [first, end) that the records from `start` to before `stop` own."""
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
        """The message of record `index`."""
        if self.messages is not None:
            return self.messages[index]
        record = self.records[index]
        return Message.of(record, record.value(), trail.start())

    def entry(self, assignment: Assignment, index: int, message: Message) -> Entry:
        """An entry that tracks record `index` individually."""
        entry = Entry(assignment, message, self.records[index].offset(), self.after(index))
        entry.since = self.since
        if self.dues is not None:
            entry.due = self.dues[index]
        return entry


class Assignment:
    """One partition while this member owns it."""

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
        """None until the first record shows where the partition begins."""
        self.restored = done[-1][1] if done else 0
        """Records below this offset may have been completed by another owner."""
        self.committed = committed
        self.start = start
        self.jitter = jitter
        """Random part of the default waits, 0 … 29."""
        self.backlog: deque[Slice] = deque()
        self.backlogged = 0
        """Records in the backlog."""
        self.queued = False
        """Whether it is in the round of partitions with a backlog."""
        self.running: dict[object, None] = {}
        """Runs with records of this partition."""
        self.laned = 0
        """Entries in key queues, including running ones and those that hold their key."""
        self.flying = 0
        """Entries that a caller has taken, plus the part runs beside them."""
        self.open: dict[Entry, None] = {}
        """Entries whose call has ended but that are not done: being forwarded, waiting for a retry in place, or for
        the acknowledgement of what they produced."""
        self.waiting = 0
        self.waiting_bytes = 0
        self.paused = False

    def __repr__(self) -> str:
        return f"<Assignment {self.partition} {self.phase.value}>"

    def to(self, event: Event) -> None:
        self.phase = TRANSITIONS[self.phase, event]

    @property
    def position(self) -> CommittedOffset | None:
        """What may be committed now; None if not known yet."""
        if self.offset_tracker is None:
            return None
        return CommittedOffset(self.offset_tracker.position, self.offset_tracker.metadata())

    def read_to(self, end: int) -> bool:
        """No more records will be delivered below offset `end`. Returns whether that moves the committable offset."""
        if self.offset_tracker is None:
            self.offset_tracker = OffsetTracker(end, (), self.max_metadata)
            return True
        before = self.offset_tracker.position
        self.offset_tracker.delivered(end, end)
        return self.offset_tracker.position != before

    def give_back(self, piece: Slice) -> None:
        """Puts a slice that was taken from the backlog, or its rest, back in order."""
        before: list[Slice] = []
        place = piece.place
        while self.backlog and self.backlog[0].place < place:
            before.append(self.backlog.popleft())
        self.backlog.appendleft(piece)
        self.backlog.extendleft(reversed(before))
        self.backlogged += len(piece.records)

    def deliver(self, records: list[Any]) -> Iterator[Slice]:
        """Records in the offset tracker that these were delivered. Returns slices of those that are neither done nor
        in memory already."""
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
                # the other owner may not have known the end of the gap after it
                offset_tracker.done(
                    record.offset(), records[index + 1].offset() if index + 1 < len(records) else last + 1
                )
            elif start is None:
                start = index
        if start is not None:
            yield Slice(records[start:], last + 1)

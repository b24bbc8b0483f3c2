"""Records of one partition that were not started (`Slice`), and one that is tracked individually (`Entry`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flux.core import flux_headers
from flux.core.message import Message

if TYPE_CHECKING:
    from flux.core.engine.assignment import Assignment


class Entry:
    """One record that is tracked individually, because its run was split or it waits."""

    __slots__ = ("assignment", "due", "end", "key_queue", "message", "names", "offset", "since", "tries", "waits")

    def __init__(self, assignment: Assignment, message: Message, offset: int, end: int) -> None:
        self.assignment = assignment
        self.message = message
        self.offset = offset
        self.end = end
        """The offset of the next record that was delivered: this one owns [offset, end)."""
        self.key_queue: Any = None
        self.names: Sequence[str | None] | None = None
        """Its names for the limits by name; None: not asked for yet."""
        self.due = 0
        """Milliseconds since the epoch."""
        self.since = 0.0
        """When it could first be called: delivered and due, in seconds by the engine's clock."""
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

    __slots__ = ("due_times", "end", "ends", "epoch", "messages", "records", "since")

    def __init__(
        self,
        records: list[Any],
        end: int,
        messages: list[Message] | None = None,
        due_times: list[int] | None = None,
        ends: list[int] | None = None,
    ) -> None:
        self.records = records
        self.end = end
        """The offset after the last record: that of the next delivered record, if known."""
        self.messages = messages
        """The records' messages, in a retry stage."""
        self.due_times = due_times
        """Due times in milliseconds since the epoch, in a retry stage."""
        self.ends = ends
        """The end of the offsets that each record owns; None: the next record's offset, as they are in offset order."""
        self.since = 0.0
        """When they were delivered, in seconds by the engine's clock."""
        self.epoch = 0.0
        """The wall clock's time, in seconds since the epoch, when the engine's clock was 0."""

    @classmethod
    def of(cls, entry: Entry) -> Slice:
        """Of one record."""
        message = entry.message
        if message.stage == 0:
            piece = cls([message._record], entry.end)
        else:
            piece = cls([message._record], entry.end, [message], [entry.due], [entry.end])
        piece.since, piece.epoch = entry.since, math.inf  # `since` counts, whenever it was due
        return piece

    def __len__(self) -> int:
        return len(self.records)

    @property
    def size(self) -> int:
        """Bytes of the keys and values."""
        return sum(len(record.value() or b"") + len(record.key() or b"") for record in self.records)

    @property
    def place(self) -> tuple[int, int]:
        """(due time, offset) of the first record: sorts the slices of a partition."""
        return 0 if self.due_times is None else self.due_times[0], self.records[0].offset()

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
            None if self.due_times is None else self.due_times[start:stop],
            None if self.ends is None else self.ends[start:stop],
        )
        part.since, part.epoch = self.since, self.epoch
        return part

    def after(self, index: int) -> int:
        """The end of the offsets that record `index` owns."""
        if self.ends is not None:
            return self.ends[index]
        records = self.records
        return int(records[index + 1].offset()) if index + 1 < len(records) else self.end

    def owned(self, start: int, stop: int) -> int:
        """The number of offsets that the records from `start` to before `stop` own."""
        if self.ends is None:
            return self.after(stop - 1) - int(self.records[start].offset())
        return sum(self.ends[index] - int(self.records[index].offset()) for index in range(start, stop))

    def picked(self, indices: Sequence[int]) -> Slice:
        """The records at `indices`, at least one."""
        first, last = indices[0], indices[-1]
        if last - first + 1 == len(indices):
            return self.part(first, last + 1)
        return self.selected(indices)

    def selected(self, indices: Sequence[int]) -> Slice:
        """The records at `indices`, in this order, which must be that of a slice."""
        part = Slice(
            [self.records[index] for index in indices],
            0,
            None if self.messages is None else [self.messages[index] for index in indices],
            None if self.due_times is None else [self.due_times[index] for index in indices],
            [self.after(index) for index in indices],
        )
        part.since, part.epoch = self.since, self.epoch
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
        return Message.of(record, record.value(), flux_headers.of_main_topic())

    def entry(self, assignment: Assignment, index: int, message: Message) -> Entry:
        """An entry that tracks record `index` individually."""
        entry = Entry(assignment, message, self.records[index].offset(), self.after(index))
        entry.since = self.since
        if self.due_times is not None:
            entry.due = self.due_times[index]
            # not when somebody looked: a pause may have hidden the record since then
            entry.since = max(self.since, entry.due / 1000 - self.epoch)
        return entry

"""Buffers records of a producer, and decides when they are flushed: by number, by bytes, or by age.

Many threads add while one takes, without a lock: `list.append`, a slice and its deletion are each atomic, records are
only added behind those being taken, and the deadline is cleared before and read after. A race can at most make a batch
a few records larger than its limits.
"""

from __future__ import annotations

import math

import attrs

from flux.core.ports import ProducerRecord


@attrs.frozen
class Limits:
    """When a batch is flushed: `records`, `bytes` of keys and values, `age` of its first record in seconds."""

    records: int
    bytes: int
    age: float


class Buffer:
    __slots__ = ("_age", "_bytes", "_most_bytes", "_most_records", "_records", "blocked", "deadline", "taken")

    def __init__(self, limits: Limits) -> None:
        self._most_records = limits.records
        self._most_bytes = limits.bytes
        self._age = limits.age
        self._records: list[ProducerRecord] = []
        self._bytes = 0
        self.taken: list[ProducerRecord] = []
        """What `take` returned; its caller empties the list after it has stored the records elsewhere."""
        self.deadline: float | None = None
        """By the monotonic clock; None: empty, or `opened` was not called yet."""
        self.blocked = False
        """Whether callers must wait for room before they add. The flusher sets it when the client takes no records."""

    def add(self, record: ProducerRecord, size: int) -> bool:
        """Returns whether the caller has something to do: flush if the buffer is `full`, call `opened` if it has no
        `deadline`."""
        records = self._records
        records.append(record)
        self._bytes += size
        return len(records) >= self._most_records or self._bytes >= self._most_bytes or self.deadline is None

    def __len__(self) -> int:
        return len(self._records)

    @property
    def full(self) -> bool:
        return len(self._records) >= self._most_records or self._bytes >= self._most_bytes

    def opened(self, now: float, within: float = math.inf) -> float:
        """Starts the batch's age, unless it has started; it is due `within` seconds even so. For one thread at a time.
        Returns the deadline."""
        deadline, latest = self.deadline, now + min(self._age, within)
        if deadline is None or deadline > latest:
            self.deadline = deadline = latest
        return deadline

    def due_within(self, seconds: float, now: float) -> bool:
        """Whether its records leave within so many seconds, or have left."""
        deadline = self.deadline
        return not self._records if deadline is None else deadline <= now + seconds

    def hurry(self) -> None:
        """From now on each record makes the buffer full. A record whose `add` did not return so was added before."""
        self._most_records = 1

    def due(self, now: float) -> bool:
        """Whether the deadline has passed, or the clock was set back to before the batch began."""
        deadline = self.deadline
        return deadline is not None and (now >= deadline or now < deadline - self._age)

    def take(self) -> list[ProducerRecord]:
        """Takes all records in order; the next one starts a new batch. For one thread at a time. Returns the same list
        until `taken` is emptied. A signal handler may raise at any function call, so there is none between the two
        lines that move the records, and there must be none where the caller moves them on."""
        if not self.taken:
            self.deadline = None
            records, count = self._records, len(self._records)
            self.taken = records[:count]
            del records[:count]
            self._bytes = 0
        return self.taken

"""A filling batch, and when it is handed on: at so many records, at so many bytes, at an age.

Many threads add while one takes, without a lock: `list.append`, a slice and its deletion are each atomic, records are
only ever added behind those being taken, and the deadline is cleared before and looked at after. A race can at most
make a batch a few records larger than its limits.
"""

from __future__ import annotations

import attrs

from flux.core.ports import ProducerRecord


@attrs.frozen
class Limits:
    """When a batch is handed on: `records`, `bytes` of keys and values, `age` of its first record in seconds."""

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
        """What `take` gave, until its caller has put it elsewhere and empties this."""
        self.deadline: float | None = None
        """By the monotonic clock; None: empty, or nobody has called `opened` yet."""
        self.blocked = False
        """Whether who adds waits for room first. Whoever hands records on sets it, when the client takes none."""

    def add(self, record: ProducerRecord, size: int) -> bool:
        """Whether there is something to do: hand it on when it is `full`, call `opened` when there is no `deadline`."""
        records = self._records
        records.append(record)
        self._bytes += size
        return len(records) >= self._most_records or self._bytes >= self._most_bytes or self.deadline is None

    def __len__(self) -> int:
        return len(self._records)

    @property
    def full(self) -> bool:
        return len(self._records) >= self._most_records or self._bytes >= self._most_bytes

    def opened(self, now: float) -> float:
        """The deadline of the batch that has begun."""
        if self.deadline is None:
            self.deadline = now + self._age
        return self.deadline

    def hurry(self) -> None:
        """From now on each record makes the buffer full. One that was not told so was added before."""
        self._most_records = 1

    def due(self, now: float) -> bool:
        """Whether its time has come; also when the clock was set back to before its beginning."""
        deadline = self.deadline
        return deadline is not None and (now >= deadline or now < deadline - self._age)

    def take(self) -> list[ProducerRecord]:
        """All records, in order; the next one begins a new batch. By one thread at a time. Gives the same again while
        `taken` is not emptied: a signal's handler may raise at any call, so there is none between these two lines, and
        there must be none where the records change hands."""
        if not self.taken:
            self.deadline = None
            records, count = self._records, len(self._records)
            self.taken = records[:count]
            del records[:count]
            self._bytes = 0
        return self.taken

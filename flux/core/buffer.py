"""A filling batch, and when it is handed on: at so many records, at so many bytes, at an age.

Many threads add while one takes, without a lock: `list.append`, a slice and its deletion are each atomic, records are
only ever added behind those being taken, and the deadline is cleared before and looked at after. A race can at most
make a batch a few records larger than its limits.
"""

from __future__ import annotations

import attrs

from flux.core.ports import Outgoing


@attrs.frozen
class Limits:
    """When a batch is handed on: `records`, `bytes` of keys and values, `age` of its first record in seconds."""

    records: int
    bytes: int
    age: float


@attrs.define(slots=True, eq=False)
class Buffer:
    limits: Limits
    records: list[Outgoing] = attrs.field(factory=list, init=False)
    bytes: int = attrs.field(default=0, init=False)
    deadline: float | None = attrs.field(default=None, init=False)
    """Seconds since the epoch; None: empty, or nobody has called `opened` yet."""

    def add(self, record: Outgoing, size: int) -> bool:
        """Whether a limit is reached. Whoever then finds no `deadline` calls `opened`."""
        records = self.records
        records.append(record)
        self.bytes += size
        return len(records) >= self.limits.records or self.bytes >= self.limits.bytes

    @property
    def full(self) -> bool:
        return len(self.records) >= self.limits.records or self.bytes >= self.limits.bytes

    def opened(self, now: float) -> float:
        """The deadline of the batch that has begun."""
        if self.deadline is None:
            self.deadline = now + self.limits.age
        return self.deadline

    def due(self, now: float) -> bool:
        """Whether its time has come; also when the clock was set back to before its beginning."""
        deadline = self.deadline
        return deadline is not None and (now >= deadline or now < deadline - self.limits.age)

    def take(self) -> list[Outgoing]:
        """All records, in order; the next one begins a new batch. By one thread at a time."""
        self.deadline = None
        count = len(self.records)
        taken = self.records[:count]
        del self.records[:count]
        self.bytes = 0
        return taken

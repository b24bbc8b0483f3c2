"""The oldest unfinished record of each partition: the one at its committed offset."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from flux.core.monitoring.report import shown_key
from flux.core.policy import Policy
from flux.core.ports import BEGINNING, Cluster, Record, System, TopicPartition
from flux.core.stage import Role, Stage
from flux.operate.reading import message_of
from flux.operate.record_history import due_of
from flux.system import SYSTEM

MAX_PARTITIONS = 500
"""Read together: a client buffers some hundred KB of each."""
TIMEOUT = 5.0
_LOOK = 0.25
_PIECE = 500


@attrs.frozen
class OldestUnfinished:
    """Times in milliseconds since the epoch."""

    offset: int
    key: str | None
    attempt: int
    written_at: int
    due: int | None
    """None in the main stage, where nothing waits."""
    size: int = 0
    """Uncompressed bytes of value, key and headers."""

    def waits(self, now_ms: int) -> bool:
        return self.due is not None and self.due > now_ms

    def since(self, now_ms: int) -> float | None:
        """Seconds since it was written, or due. None: not known."""
        began = self.due if self.due is not None else self.written_at
        return None if began <= 0 else max(0.0, (now_ms - began) / 1000)


def oldest_unfinished_of(record: Record, stage: Stage, policy: Policy, now_ms: int) -> OldestUnfinished:
    message = message_of(record, stage, policy, now_ms)
    due = None if stage.role is Role.MAIN else due_of(message, stage, policy)
    size = len(record.value() or b"") + len(message.key or b"")
    size += sum(len(name) + len(value or b"") for name, value in message.headers)
    return OldestUnfinished(message.offset, shown_key(message.key), message.attempt, message.timestamp, due, size)


def read_first(
    adapter: Cluster, starts: Mapping[TopicPartition, int], *, system: System = SYSTEM
) -> dict[TopicPartition, Record]:
    """The first record at each of these offsets or after it, of at most `MAX_PARTITIONS` partitions; without
    those that have none, or none within `TIMEOUT` seconds. Raises BrokerError."""
    left = dict(list(starts.items())[:MAX_PARTITIONS])
    found: dict[TopicPartition, Record] = {}
    if not left:
        return found
    reader = adapter.reader(left)
    until = system.monotonic() + TIMEOUT
    try:
        while left and system.monotonic() < until:
            polled = reader.poll(_PIECE, _LOOK)
            for at in polled.out_of_range:
                reader.seek(at, BEGINNING)  # deleted meanwhile
            for batch in polled.batches:
                if left.pop(batch.partition, None) is not None:
                    found[batch.partition] = batch.records[0]
            for at in polled.reached:
                left.pop(at, None)
    finally:
        reader.close()
    return found

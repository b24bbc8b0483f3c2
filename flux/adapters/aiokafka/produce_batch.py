"""Records on their way to one partition in one batch: their bytes, and how they are acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from flux.adapters.operations import invalid_record
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Acknowledged, ProducerRecord
from flux.core.producing.written_record import WrittenRecord

_MAGIC = 2
_CREATE_TIME, _LOG_APPEND_TIME = 1, 2


class BatchEntry(NamedTuple):
    """A record that `write` took. `deadline` by the monotonic clock; `size` in bytes."""

    record: ProducerRecord
    acknowledged: Acknowledged
    deadline: float
    size: int


class Identity(NamedTuple):
    """A producer id from the broker, by which it recognizes a batch that is sent again. -1: none."""

    producer: int
    epoch: int


ANONYMOUS = Identity(-1, -1)


class ProduceBatch:
    """`data`: the records' bytes. `sent`: whether they may have arrived."""

    def __init__(self, entries: Sequence[BatchEntry], data: bytes, timestamps: Sequence[int]) -> None:
        self.entries = entries
        self.data = data
        self.sent = False
        self._timestamps = timestamps

    def written(self, topic: str, partition: int, offset: int, timestamp: int) -> list[WrittenRecord]:
        """The records as written. `offset` of the first, and the broker's `timestamp`; -1: not known."""
        return [
            WrittenRecord(
                topic,
                partition,
                offset + i if offset >= 0 else -1,
                entry.record,
                (_CREATE_TIME, created) if timestamp < 0 else (_LOG_APPEND_TIME, timestamp),
            )
            for i, (entry, created) in enumerate(zip(self.entries, self._timestamps, strict=True))
        ]


def build_batch(
    topic: str,
    entries: Sequence[BatchEntry],
    identity: Identity,
    sequence: int,
    codec: int,
    batch_bytes: int,
    request_bytes: int,
    refuse: Callable[[BatchEntry, BrokerError], None],
) -> ProduceBatch:
    """A batch of `entries`. Calls `refuse` for those that Kafka cannot store or that are too large."""
    limit = 2 * max(request_bytes, batch_bytes)
    builder = DefaultRecordBatchBuilder(_MAGIC, codec, 0, identity.producer, identity.epoch, sequence, limit)
    accepted: list[BatchEntry] = []
    timestamps: list[int] = []
    for entry in entries:
        value, key, headers, _, timestamp = entry.record
        if entry.size > request_bytes:
            refuse(entry, BrokerError(f"a record of {entry.size} bytes exceeds max_request_size", Fault.TOO_LARGE))
            continue
        try:
            appended = builder.append(len(accepted), timestamp, key, value, list(headers))
        except (TypeError, ValueError, OverflowError, AttributeError) as failure:
            refuse(entry, invalid_record(topic, failure))
        else:
            accepted.append(entry)
            timestamps.append(appended.timestamp)
    return ProduceBatch(accepted, bytes(builder.build()) if accepted else b"", timestamps)


def unwritten(topic: str, partition: int | None, record: ProducerRecord) -> WrittenRecord:
    timestamp = (0, 0) if record.timestamp is None else (_CREATE_TIME, record.timestamp)
    return WrittenRecord(topic, -1 if partition is None else partition, -1, record, timestamp)

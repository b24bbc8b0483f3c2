"""Records as aiokafka decodes them, a batch at a time.

aiokafka's own path makes a large object for each record. At a header whose name is not UTF-8 it raises for ever, and
loses the records that it had taken from other partitions in that call. So batches are taken from its fetcher here.
"""

from __future__ import annotations

import struct
from itertools import repeat
from typing import Any

from aiokafka.errors import CorruptRecordException
from aiokafka.record.util import decode_varint

from flux.adapters.aiokafka import internals
from flux.core.ports import Headers, TopicPartition

_LENGTH = struct.Struct(">qi")  # base offset and length, which precede each batch
_V2 = 2
_MAGIC_AT = 16


class AiokafkaRecord(tuple[Any, TopicPartition]):
    """`flux.core.ports.Record`: (aiokafka's record, its partition). A tuple: no Python code runs to make one."""

    __slots__ = ()

    def topic(self) -> str:
        return self[1].topic

    def partition(self) -> int:
        return self[1].partition

    def offset(self) -> int:
        return self[0].offset  # type: ignore[no-any-return]

    def key(self) -> bytes | None:
        return self[0].key  # type: ignore[no-any-return]

    def value(self) -> bytes | None:
        return self[0].value  # type: ignore[no-any-return]

    def headers(self) -> Headers | None:
        """Raises UnicodeDecodeError for a name that is not UTF-8."""
        return self[0].headers  # type: ignore[no-any-return]

    def timestamp(self) -> tuple[int, int]:
        record = self[0]
        if record.timestamp is None or record.timestamp_type is None:
            return 0, -1
        return record.timestamp_type + 1, record.timestamp

    def __repr__(self) -> str:
        return f"<record {self[1]}@{self[0].offset}, key {self[0].key!r}>"


class Unreadable(Exception):
    """The batch that begins at or before `offset` cannot be decoded by aiokafka."""

    def __init__(self, offset: int, cause: Exception) -> None:
        super().__init__(f"the batch at offset {offset} cannot be read: {cause}")
        self.offset = offset


class Fetched:
    """The records of one partition in one fetch: aiokafka's PartitionRecords, decoded a batch at a time."""

    def __init__(self, result: Any, partition: TopicPartition) -> None:
        self.result = result
        self._source = internals.records_of_result(result)
        self._partition = partition
        self._ready: list[AiokafkaRecord] = []
        self._at = 0
        self._broken: Unreadable | None = None

    def take(self, limit: int) -> list[AiokafkaRecord]:
        """Up to `limit` records, from the first one not taken yet. Raises Unreadable when a batch that cannot be
        decoded is next."""
        taken = self._ready[self._at : self._at + limit] if self._at < len(self._ready) else []
        self._at += len(taken)
        while len(taken) < limit and internals.has_batch(self._source) and self._broken is None:
            try:
                batch = self._next_batch()
            except Unreadable as error:
                self._broken = error
                break
            room = limit - len(taken)
            if len(batch) > room:
                taken += batch[:room]
                self._ready, self._at = batch, room
            elif taken:
                taken += batch
            else:
                taken = batch
        if not taken and self._broken is not None:
            raise self._broken
        return taken

    @property
    def next_offset(self) -> int:
        """The offset after the last record taken."""
        if self._at < len(self._ready):
            return self._ready[self._at].offset()
        return self._source.next_fetch_offset  # type: ignore[no-any-return]

    @property
    def exhausted(self) -> bool:
        return self._at >= len(self._ready) and not internals.has_batch(self._source) and self._broken is None

    def _next_batch(self) -> list[AiokafkaRecord]:
        """Decoded as aiokafka's PartitionRecords does it."""
        source = self._source
        batch = internals.next_batch(source)
        start = source.next_fetch_offset
        try:
            if internals.checks_crcs(source) and not batch.validate_crc():
                raise CorruptRecordException("its checksum is wrong")
            records: list[AiokafkaRecord] = []
            if not internals.is_skipped(source, batch):
                records = list(map(AiokafkaRecord, zip(batch, repeat(self._partition))))
        except Exception as error:
            raise Unreadable(start, error) from error
        if records and records[0].offset() < start:
            records = [record for record in records if record.offset() >= start]
        # A batch may end before the offsets that it covers, where compaction has taken the last ones.
        source.next_fetch_offset = max(start, batch.next_offset)
        return records


# -- a batch with a header whose name is not UTF-8


class LazyRecord:
    """Like aiokafka's own record, but its headers are decoded when they are read."""

    __slots__ = ("_headers", "key", "offset", "timestamp", "timestamp_type", "value")

    def __init__(self, offset: int, timestamp: tuple[int, int], key: Any, value: Any, headers: list[Any]) -> None:
        self.offset = offset
        self.timestamp_type, self.timestamp = timestamp
        self.key = key
        self.value = value
        self._headers = headers

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        return [(name.decode(), value) for name, value in self._headers]


def decode_first_batch(data: bytes, offset: int, partition: TopicPartition) -> tuple[list[AiokafkaRecord], int]:
    """The records from `offset` on of the first batch in `data` that reaches it, and the offset after that batch.
    Raises CorruptRecordException for a broken batch."""
    at = 0
    while at + _LENGTH.size <= len(data):
        _, length = _LENGTH.unpack_from(data, at)
        raw = data[at : at + _LENGTH.size + length]
        at += _LENGTH.size + length
        if len(raw) < _LENGTH.size + length or raw[_MAGIC_AT] < _V2:
            break
        batch = internals.RecordBatch(raw)
        if batch.next_offset <= offset:
            continue
        if not batch.validate_crc():
            break
        try:
            records = _decoded(batch)
        except (ValueError, IndexError) as error:
            raise CorruptRecordException(f"{partition}: the batch at offset {offset} is broken: {error!r}") from error
        kept = [AiokafkaRecord((record, partition)) for record in records if record.offset >= offset]
        return kept, batch.next_offset
    raise CorruptRecordException(f"{partition}: the batch at offset {offset} is broken")


def _decoded(batch: Any) -> list[LazyRecord]:
    """Source: https://kafka.apache.org/documentation/#record"""
    buffer, pos, count_of_records = internals.uncompressed(batch)
    records = []

    def data(pos: int) -> tuple[bytes | None, int]:
        length, pos = decode_varint(buffer, pos)
        if length < 0:
            return None, pos
        if pos + length > len(buffer):
            raise ValueError("a field ends after its batch")
        return buffer[pos : pos + length], pos + length

    for _ in range(count_of_records):
        _, pos = decode_varint(buffer, pos)  # the record's length
        delta, pos = decode_varint(buffer, pos + 1)  # after one byte of attributes
        by_broker = batch.timestamp_type == batch.LOG_APPEND_TIME
        stamp = batch.max_timestamp if by_broker else batch.first_timestamp + delta
        shift, pos = decode_varint(buffer, pos)
        key, pos = data(pos)
        value, pos = data(pos)
        count, pos = decode_varint(buffer, pos)
        headers = []
        for _ in range(count):
            name, pos = data(pos)
            content, pos = data(pos)
            headers.append((name or b"", content))
        records.append(LazyRecord(batch.base_offset + shift, (batch.timestamp_type, stamp), key, value, headers))
    return records

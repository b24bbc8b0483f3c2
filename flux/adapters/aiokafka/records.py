"""Records as aiokafka decodes them, in batches, and what it takes to miss none.

aiokafka's own path makes a large object for each record, and raises for ever at a header whose name is not UTF-8,
dropping what it had already taken from other partitions in that call. So batches are taken from its fetcher here.
"""

from __future__ import annotations

import struct
from itertools import repeat
from typing import Any

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy  # the one whose buffer can be read
from aiokafka.record.util import decode_varint

from flux.core.ports import Headers, TopicPartition

_LENGTH = struct.Struct(">qi")  # base offset, length: what stands before each batch
_V2 = 2
_MAGIC_AT = 16
_READ_COMMITTED = 1


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
    """What one fetch brought of one partition: aiokafka's PartitionRecords, decoded a batch at a time."""

    def __init__(self, result: Any, partition: TopicPartition) -> None:
        self.result = result
        self._source = result._partition_records
        self._partition = partition
        self._ready: list[AiokafkaRecord] = []
        self._at = 0
        self._broken: Unreadable | None = None

    def take(self, limit: int) -> list[AiokafkaRecord]:
        """At most `limit` records, from the first one not taken yet. Raises Unreadable when there are none before a
        batch that cannot be decoded."""
        taken = self._ready[self._at : self._at + limit] if self._at < len(self._ready) else []
        self._at += len(taken)
        while len(taken) < limit and self._source._records.has_next() and self._broken is None:
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
    def position(self) -> int:
        """The offset after what was taken."""
        if self._at < len(self._ready):
            return self._ready[self._at].offset()
        return self._source.next_fetch_offset  # type: ignore[no-any-return]

    @property
    def exhausted(self) -> bool:
        return self._at >= len(self._ready) and not self._source._records.has_next() and self._broken is None

    def _next_batch(self) -> list[AiokafkaRecord]:
        """As PartitionRecords._unpack_records does it."""
        source = self._source
        batch = source._records.next_batch()
        start = source.next_fetch_offset
        try:
            if source._check_crcs and not batch.validate_crc():
                raise CorruptRecordException("its checksum is wrong")
            records = [] if self._is_skipped(batch) else list(map(AiokafkaRecord, zip(batch, repeat(self._partition))))
        except Exception as error:
            raise Unreadable(start, error) from error
        if records and records[0].offset() < start:
            records = [record for record in records if record.offset() >= start]
        # A batch may end before the offsets that it covers, where compaction has taken the last ones.
        source.next_fetch_offset = max(start, batch.next_offset)
        return records

    def _is_skipped(self, batch: Any) -> bool:
        source = self._source
        if source._isolation_level == _READ_COMMITTED and batch.producer_id is not None:
            source._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and source._contains_abort_marker(batch):
                source._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in source._aborted_producers:
                return True
        return bool(batch.is_control_batch)


# -- a batch with a header that has no readable name


class PatientRecord:
    """A record as aiokafka's own, whose headers are decoded only when they are asked for."""

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


def read_patiently(data: bytes, offset: int, partition: TopicPartition) -> tuple[list[AiokafkaRecord], int]:
    """The records from `offset` on in the first batch of `data` that reaches it, and the offset after that batch.
    Raises CorruptRecordException where they cannot be read."""
    at = 0
    while at + _LENGTH.size <= len(data):
        _, length = _LENGTH.unpack_from(data, at)
        raw = data[at : at + _LENGTH.size + length]
        at += _LENGTH.size + length
        if len(raw) < _LENGTH.size + length or raw[_MAGIC_AT] < _V2:
            break
        batch = _DefaultRecordBatchPy(raw)
        if batch.next_offset <= offset:
            continue
        if not batch.validate_crc():
            break
        try:
            batch._maybe_uncompress()
            records = _unpacked(batch)
        except (ValueError, IndexError) as error:
            raise CorruptRecordException(f"{partition}: the batch at offset {offset} is broken: {error!r}") from error
        kept = [AiokafkaRecord((record, partition)) for record in records if record.offset >= offset]
        return kept, batch.next_offset
    raise CorruptRecordException(f"{partition}: the batch at offset {offset} is broken")


def _unpacked(batch: _DefaultRecordBatchPy) -> list[PatientRecord]:
    """Source: https://kafka.apache.org/documentation/#record"""
    buffer, pos = bytes(batch._buffer), batch._pos
    records = []

    def data(pos: int) -> tuple[bytes | None, int]:
        length, pos = decode_varint(buffer, pos)
        if length < 0:
            return None, pos
        if pos + length > len(buffer):
            raise ValueError("a field ends after its batch")
        return buffer[pos : pos + length], pos + length

    for _ in range(batch._num_records):
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
        records.append(PatientRecord(batch.base_offset + shift, (batch.timestamp_type, stamp), key, value, headers))
    return records

"""Topics, the logs of their partitions, and the records in them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from flux.core.errors import BrokerError, Fault
from flux.core.ports import BEGINNING, END, Headers, ProducerRecord
from flux.core.producing.partitioner import partition_for_key
from flux.core.producing.written_record import RECORD_OVERHEAD, WrittenRecord

CREATE_TIME, LOG_APPEND_TIME = 1, 2

DEFAULT_CONFIG = {
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
    "message.timestamp.type": "CreateTime",
    "min.insync.replicas": "1",
    "retention.bytes": "-1",
    "retention.ms": "604800000",
}

Refusal = Callable[[int, ProducerRecord], BrokerError | None]
End = tuple[BrokerError | None, "MemoryRecord"]


class MemoryRecord(WrittenRecord):
    """`flux.core.ports.Record`, shared by all readers."""

    __slots__ = ()

    def headers(self) -> Headers | None:
        """Raises UnicodeEncodeError for a name with a lone surrogate, which represents one that is not UTF-8."""
        if self._headers is None:
            return None
        for name, _ in self._headers:
            if not name.isascii():
                name.encode()
        return list(self._headers)

    def __repr__(self) -> str:
        return f"<record {self._topic}[{self._partition}]@{self.at}, key {self._key!r}>"


class Log:
    """One partition. Offsets may have gaps, as transactions and compaction leave them."""

    def __init__(self) -> None:
        self.records: list[MemoryRecord] = []
        self.aborted: list[MemoryRecord] = []
        """Records of aborted transactions: they take offsets and are delivered to nobody."""
        self.markers: list[tuple[int, int]] = []
        """The ends of transactions: offset and milliseconds since the epoch."""
        self.open: dict[int, list[MemoryRecord]] = {}
        """Records of open transactions, by the first one's offset. They are in `records` as well."""
        self.low = 0
        self.high = 0

    @property
    def stable(self) -> int:
        """The last stable offset: consumers read up to the first record of an open transaction."""
        return min(self.open) if self.open else self.high

    def resolve(self, offset: int) -> int:
        """The offset that BEGINNING or END stand for; any other as it is."""
        return {BEGINNING: self.low, END: self.stable}.get(offset, offset)

    def read(self, offset: int, limit: int) -> list[MemoryRecord]:
        """Up to `limit` records from `offset` on, and below the last stable offset."""
        start = bisect_left(self.records, offset, key=attrgetter("at"))
        if not self.open:
            return self.records[start : start + limit]
        end = bisect_left(self.records, self.stable, key=attrgetter("at"))
        return self.records[start : min(start + limit, end)]

    def end_transaction(self, first: int, now_ms: int, *, commits: bool) -> None:
        """The transaction that is open from the offset `first` on; its marker takes one offset."""
        written = self.open.pop(first)
        self.markers.append((self.high, now_ms))
        self.high += 1
        if not commits:
            gone = {record.at for record in written}
            start = bisect_left(self.records, first, key=attrgetter("at"))
            self.records[start:] = [record for record in self.records[start:] if record.at not in gone]
            self.aborted += [record for record in written if record.at >= self.low]
            self.aborted.sort(key=attrgetter("at"))

    def settled(self) -> list[MemoryRecord]:
        """Its records without those of open transactions."""
        pending = {record.at for written in self.open.values() for record in written}
        return [record for record in self.records if record.at not in pending] if pending else list(self.records)

    def offset_at(self, timestamp_ms: int) -> int:
        """Of the first record that is as young, aborted ones and markers included; the end if there is none."""
        records = (next((r.at for r in each if r.timestamp()[1] >= timestamp_ms), self.high) for each in self._all())
        marker = next((at for at, written in self.markers if written >= timestamp_ms), self.high)
        return min(marker, *records)

    def delete_before(self, offset: int) -> None:
        self.low = max(self.low, offset)
        for records in self._all():
            del records[: bisect_left(records, offset, key=attrgetter("at"))]
        del self.markers[: bisect_left(self.markers, (offset,))]

    def _all(self) -> tuple[list[MemoryRecord], list[MemoryRecord]]:
        return self.records, self.aborted


class Topic:
    def __init__(self, name: str, partitions: int, replication_factor: int, config: Mapping[str, str]) -> None:
        self.name = name
        self.replication_factor = replication_factor
        self.config = {**DEFAULT_CONFIG, **config}
        self.logs = [Log() for _ in range(partitions)]
        self._turn = 0

    def append(
        self, records: Sequence[ProducerRecord], now_ms: int, refuse: Refusal | None, lose: Refusal | None
    ) -> list[End]:
        """Writes each record or returns why not. `refuse` and `lose` are a test's faults: `refuse` before the record is
        stored, `lose` instead of its acknowledgement."""
        name, logs, count = self.name, self.logs, len(self.logs)
        limit = int(self.config["max.message.bytes"])
        compacted = "compact" in self.config["cleanup.policy"]
        broker_stamps = self.config["message.timestamp.type"] == "LogAppendTime"
        now = (LOG_APPEND_TIME if broker_stamps else CREATE_TIME, now_ms)
        ends: list[End] = []
        for one in records:
            key, value, partition = one.key, one.value, one.partition
            if partition is None:
                partition = self._place(key)
            size = RECORD_OVERHEAD + (len(value) if value else 0) + (len(key) if key else 0)
            if one.headers:
                size += _headers_size(one.headers)
            error: BrokerError | None = None
            if not 0 <= partition < count:
                error = BrokerError(f"{name} has no partition {partition}", Fault.UNKNOWN_TOPIC)
            elif size > limit:
                error = BrokerError(f"{size} bytes, {name} takes {limit}", Fault.TOO_LARGE)
            elif compacted and key is None:
                error = BrokerError(f"{name} is compacted: a record needs a key")
            elif refuse is not None:
                error = refuse(partition, one)
            stamp = now if one.timestamp is None or broker_stamps else (CREATE_TIME, one.timestamp)
            if error is not None:
                ends.append((error, MemoryRecord(name, partition, -1, one, stamp)))
                continue
            log = logs[partition]
            record = MemoryRecord(name, partition, log.high, one, stamp)
            log.high += 1
            log.records.append(record)
            ends.append((lose(partition, one) if lose is not None else None, record))
        return ends

    def _place(self, key: bytes | None) -> int:
        count = len(self.logs)
        if key is not None:
            return partition_for_key(key, count) if count > 1 else 0
        self._turn += 1
        return (self._turn - 1) % count


def _headers_size(headers: Headers) -> int:
    return sum(len(name.encode("utf-8", "surrogatepass")) + len(value or b"") + 2 for name, value in headers)


def size_of(record: ProducerRecord) -> int:
    """Bytes of a record in a batch of its own, approximately."""
    return RECORD_OVERHEAD + len(record.key or b"") + len(record.value or b"") + _headers_size(record.headers)

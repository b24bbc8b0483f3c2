"""The in-memory reader: a cursor in each of its partitions, without a group."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from flux.adapters.memory.cluster import MemoryCluster, Sleeper
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Batch, PollResult, TopicPartition


@attrs.define
class ReaderCursor:
    offset: int
    reported: int | None = None
    """The end that was reported last: each is reported once."""
    out_of_range: bool = False


class MemoryReader:
    """`flux.core.ports.ReaderPort`."""

    def __init__(self, cluster: MemoryCluster, starts: Mapping[TopicPartition, int]) -> None:
        self._cluster = cluster
        self._sleeper = Sleeper(cluster.system)
        # The partition that was read longest ago comes first.
        self._cursors = {at: ReaderCursor(offset) for at, offset in starts.items()}
        self._closed = False

    def poll(self, max_records: int, timeout: float) -> PollResult:
        cluster = self._cluster
        deadline = cluster.system.monotonic() + timeout
        while True:
            with cluster.lock:
                self._require_open()
                cluster.expire_transactions()
                polled = self._fetch(max_records) if cluster.available else PollResult()
                left = deadline - cluster.system.monotonic()
                if polled != PollResult() or left <= 0:
                    return polled
                for topic in {at.topic for at in self._cursors}:
                    cluster.add_sleeper(self._sleeper, topic)
                until = min(deadline, cluster.transactions.next_expiry())
            self._sleeper.sleep(max(0.0, until - cluster.system.monotonic()))

    def _fetch(self, max_records: int) -> PollResult:
        polled = PollResult()
        for at, cursor in list(self._cursors.items()):
            logs = self._cluster.topic(at.topic).logs
            if at.partition >= len(logs):
                raise BrokerError(f"there is no {at}", Fault.UNKNOWN_TOPIC)
            log = logs[at.partition]
            cursor.offset = log.resolve(cursor.offset)
            if cursor.out_of_range:
                continue
            if not log.low <= cursor.offset <= log.high:
                cursor.out_of_range = True
                polled.out_of_range.append(at)
                continue
            records = log.read(cursor.offset, max_records)
            if records:
                cursor.offset = records[-1].at + 1
                self._cursors[at] = self._cursors.pop(at)
                polled.batches.append(Batch(at, records))
                max_records -= len(records)
                if max_records <= 0:
                    break
            else:
                cursor.offset = max(cursor.offset, log.stable)  # there is only a gap between
                if cursor.reported != cursor.offset:
                    cursor.reported = polled.reached[at] = cursor.offset
        return polled

    def seek(self, partition: TopicPartition, offset: int) -> None:
        with self._cluster.lock:
            self._require_open()
            if partition not in self._cursors:
                raise BrokerError(f"cannot seek {partition}: it is not read")
            self._cursors[partition] = ReaderCursor(offset)

    def close(self) -> None:
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise BrokerError("the reader is closed", Fault.FATAL)

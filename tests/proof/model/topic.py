"""A topic of one cluster, and the group on it as the cluster has it, through one adapter."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flux.core.errors import BrokerError
from flux.core.ports import BEGINNING, CommittedOffset, NewTopic, Record, TopicPartition
from flux.testing.contract import Bench

QUIET = 20.0
"""Seconds without news after which a drain ends although an end was not reported."""

KEPT = {"retention.ms": "-1", "segment.ms": str(100 * 365 * 86_400_000)}
"""Of the topic: a sequence has records of years ago, which a broker otherwise deletes while a long run goes on, or
keeps in a segment of their own: see the freedom "deleted segments"."""

Shown = tuple[Any, ...]


class Topic:
    def __init__(self, bench: Bench, partitions: int) -> None:
        self.bench = bench
        self.topic = bench.topic(partitions, **KEPT)
        self.group = bench.name()
        self.partitions = partitions
        self._producer = bench.producer()

    def commit_from_outside(self, partition: int, offset: int) -> str | None:
        offsets = {partition: CommittedOffset(offset)}
        return raised(
            lambda: self.bench.admin.set_committed_offsets(self.group, self.topic, offsets, self.bench.seconds)
        )

    def delete_records(self, partition: int, offset: int) -> str | None:
        return raised(lambda: self.bench.admin.delete_records(self.topic, {partition: offset}, self.bench.seconds))

    def recreate(self, partitions: int) -> None:
        admin, seconds = self.bench.admin, self.bench.seconds
        admin.delete_topics([self.topic], seconds)
        self.bench.until(lambda: admin.topics([self.topic], seconds)[self.topic] is None)
        self.partitions = partitions
        self.bench.until(self._made)
        self.await_partitions()
        # a cluster forgets a deleted topic's committed offsets a moment later
        self.bench.until(lambda: not self.committed())

    def _made(self) -> bool:
        admin, seconds = self.bench.admin, self.bench.seconds
        try:
            admin.create_topics([NewTopic(self.topic, self.partitions, 1, KEPT)], seconds)
        except BrokerError:  # its deletion is not over
            return False
        found = admin.topics([self.topic], seconds)[self.topic]
        return found is not None

    def await_partitions(self) -> None:
        admin, seconds = self.bench.admin, self.bench.seconds

        def known() -> bool:
            found = admin.topics([self.topic], seconds)[self.topic]
            return found is not None and found.partitions == self.partitions

        self.bench.until(known)
        self._producer = self.bench.producer()  # see the freedom "metadata age"
        self.bench.until(lambda: _partitions(self._producer, self.topic, seconds) == self.partitions)

    def marks(self) -> dict[int, Any]:
        found: dict[int, Any] = {}

        def asked() -> bool:
            try:
                found.update(self.bench.admin.watermarks(self.topic, self.bench.seconds))
            except BrokerError as error:  # the leader of a partition that was just made
                if not error.retriable:
                    raise
            return bool(found)

        self.bench.until(asked)
        return dict(sorted(found.items()))

    def watermarks(self) -> dict[int, tuple[int, int]]:
        return {number: (marks.low, marks.high) for number, marks in self.marks().items()}

    def committed(self) -> dict[int, CommittedOffset]:
        found = self.bench.admin.committed_offsets(self.group, self.topic, self.bench.seconds)
        return dict(sorted(found.items()))

    def look(self, timestamp: int) -> Shown:
        admin, seconds = self.bench.admin, self.bench.seconds
        return (
            self.watermarks(),
            self.committed(),
            self.shares(),
            dict(sorted(admin.offsets_at(self.topic, timestamp, seconds).items())),
        )

    def read(self, partition: int, offset: int) -> tuple[list[Shown], bool, int]:
        """What a reader brings up to the end, whether it began out of range, and where it ended."""
        at = TopicPartition(self.topic, partition)
        reader = self.bench.reader({at: offset})
        high = self.watermarks()[partition][1]
        came: list[Shown] = []
        reached, lost, quiet_since = -1, False, time.monotonic()
        try:
            while reached < high and time.monotonic() - quiet_since < QUIET:
                polled = reader.poll(500, 0.05)
                if polled.batches or polled.out_of_range or polled.reached:
                    quiet_since = time.monotonic()
                for batch in polled.batches:
                    came.extend(map(shown, batch.records))
                    reached = batch.records[-1].offset() + 1
                reached = max(reached, polled.reached.get(at, -1))
                if polled.out_of_range:
                    lost = True
                    reader.seek(at, BEGINNING)
        finally:
            reader.close()
        return came, lost, reached

    def shares(self) -> list[int]:
        """As `_counts`, by the cluster."""
        return sorted(len(each.partitions) for each in self.bench.admin.members(self.group, self.bench.seconds))


def shown(record: Record) -> Shown:
    kind, at = record.timestamp()
    return (record.offset(), record.key(), record.value(), tuple(record.headers() or ()), kind, at)


def raised(call: Callable[[], object]) -> str | None:
    try:
        call()
    except BrokerError as error:
        return error.fault.name
    return None


def _partitions(producer: Any, topic: str, seconds: float) -> int:
    try:
        return int(producer.partitions(topic, seconds))
    except BrokerError:
        return 0

"""The in-memory producer. It writes at once; in an outage it holds records, and one thread waits for the cluster."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from threading import get_ident

import attrs

from flux.adapters.memory.cluster import MemoryCluster
from flux.adapters.memory.log import CREATE_TIME, MemoryRecord, size_of
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.duties import Duty
from flux.core.ports import Acknowledged, ProducerRecord, ProducerSettings, each_of

_logger = logging.getLogger("flux.memory")

Acknowledgement = tuple[Acknowledged, BrokerError | None, MemoryRecord]


@attrs.frozen
class Held:
    """A record that waits for the cluster, until `deadline` (seconds by the monotonic clock)."""

    topic: str
    record: ProducerRecord
    acknowledged: Acknowledged
    deadline: float
    size: int


class MemoryProducer:
    """`flux.core.ports.ProducerPort`. While the cluster is available, `write` acknowledges before it returns."""

    def __init__(self, cluster: MemoryCluster, settings: ProducerSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._held: deque[Held] = deque()
        self._held_bytes = 0
        self._unacknowledged = 0
        self._serving = False
        self._closed = False

    def write(
        self, topic: str, records: Sequence[ProducerRecord], acknowledged: Acknowledged | Sequence[Acknowledged]
    ) -> int:
        callbacks = list(each_of(acknowledged, records))
        acknowledgements: list[Acknowledgement] = []
        with self._cluster.lock:
            if self._closed:
                raise BrokerError("the producer is closed", Fault.FATAL)
            # After records that are held: a record never overtakes another.
            if self._held or not self._cluster.available:
                taken = self._hold(topic, records, callbacks)
            else:
                acknowledgements = self._append(topic, records, callbacks)
                taken = len(acknowledgements)
            self._unacknowledged += taken
        self._acknowledge(acknowledgements)
        return taken

    def _append(
        self, topic: str, records: Sequence[ProducerRecord], callbacks: Sequence[Acknowledged]
    ) -> list[Acknowledgement]:
        try:
            ends = self._cluster.append(topic, records)
        except BrokerError as error:
            ends = [(error, _unwritten(topic, one)) for one in records]
        return [(acknowledged, error, record) for acknowledged, (error, record) in zip(callbacks, ends, strict=False)]

    def _hold(self, topic: str, records: Sequence[ProducerRecord], callbacks: Sequence[Acknowledged]) -> int:
        deadline = self._cluster.system.monotonic() + self._settings.delivery_timeout
        before = len(self._held)
        for one, acknowledged in zip(records, callbacks, strict=True):
            size = size_of(one)
            if self._held and self._held_bytes + size > self._settings.max_queue_bytes:
                break
            self._held.append(Held(topic, one, acknowledged, deadline, size))
            self._held_bytes += size
        if self._held and not self._serving:
            self._serving = True
            self._cluster.system.spawn("flux-memory-producer", self._serve)
        return len(self._held) - before

    def _serve(self) -> None:
        serving = Duty(f"memory://{self._cluster.name}: the serving of acknowledgements")
        self._cluster.system.watch(serving)
        try:
            self._serve_all(serving)
        finally:
            serving.end()

    def _serve_all(self, serving: Duty) -> None:
        while True:
            serving.rest()  # in an outage
            with self._cluster.lock:
                while self._held and not self._cluster.available:
                    left = self._held[0].deadline - self._cluster.system.monotonic()
                    if left <= 0:
                        break
                    self._cluster.lock.wait(left)
                acknowledgements = self._deliver() if self._cluster.available else self._expire()
                if not acknowledgements:
                    self._serving = False
                    return
            serving.step(get_ident())
            self._acknowledge(acknowledgements)

    def _deliver(self) -> list[Acknowledgement]:
        acknowledgements: list[Acknowledgement] = []
        for held in self._take(len(self._held)):
            acknowledgements += self._append(held.topic, [held.record], [held.acknowledged])
        return acknowledgements

    def _expire(self) -> list[Acknowledgement]:
        now = self._cluster.system.monotonic()
        return self._fail(sum(held.deadline <= now for held in self._held), "not delivered in time")

    def _fail(self, count: int, reason: str) -> list[Acknowledgement]:
        error = BrokerError(f"memory://{self._cluster.name} is unavailable: {reason}", Fault.UNAVAILABLE)
        return [(held.acknowledged, error, _unwritten(held.topic, held.record)) for held in self._take(count)]

    def _take(self, count: int) -> list[Held]:
        taken = [self._held.popleft() for _ in range(count)]
        self._held_bytes -= sum(held.size for held in taken)
        return taken

    def _acknowledge(self, acknowledgements: Sequence[Acknowledgement]) -> None:
        for acknowledged, error, record in acknowledgements:
            try:
                acknowledged(error, record)
            except Exception:
                _logger.exception("the acknowledgement of a record for topic %s failed", record.topic())
        if acknowledgements:
            with self._cluster.lock:
                self._unacknowledged -= len(acknowledgements)
                self._cluster.lock.notify_all()

    def partitions(self, topic: str, timeout: float) -> int:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            return len(self._cluster.topic(topic, written=True).logs)

    def flush(self, timeout: float) -> int:
        with self._cluster.lock:
            return self._flush(timeout)

    def _flush(self, timeout: float) -> int:
        deadline = self._cluster.system.monotonic() + timeout
        while self._unacknowledged and (left := deadline - self._cluster.system.monotonic()) > 0:
            self._cluster.lock.wait(left)
        return self._unacknowledged

    def close(self, timeout: float) -> int:
        with self._cluster.lock:
            if self._closed:
                return 0
            self._closed = True
            left = self._flush(timeout)
            acknowledgements = self._fail(len(self._held), "the producer was closed")
            self._cluster.lock.notify_all()
        self._acknowledge(acknowledgements)
        return left


def _unwritten(topic: str, record: ProducerRecord) -> MemoryRecord:
    partition = -1 if record.partition is None else record.partition
    return MemoryRecord(topic, partition, -1, record, (CREATE_TIME, record.timestamp or 0))

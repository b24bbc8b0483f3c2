"""The producer: writes at once; in an outage it holds records and one thread waits for the cluster."""

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

Answer = tuple[Acknowledged, BrokerError | None, MemoryRecord]


@attrs.frozen
class Held:
    """A record that waits for the cluster, until `deadline` (seconds since the epoch)."""

    topic: str
    outgoing: ProducerRecord
    acknowledged: Acknowledged
    deadline: float
    size: int


class MemoryProducer:
    """`flux.core.ports.ProducerPort`. While the cluster is there, `write` acknowledges before it returns."""

    def __init__(self, cluster: MemoryCluster, settings: ProducerSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._held: deque[Held] = deque()
        self._held_bytes = 0
        self._unanswered = 0
        self._serving = False
        self._closed = False

    def write(
        self, topic: str, records: Sequence[ProducerRecord], acknowledged: Acknowledged | Sequence[Acknowledged]
    ) -> int:
        told = list(each_of(acknowledged, records))
        answers: list[Answer] = []
        with self._cluster.lock:
            if self._closed:
                raise BrokerError("the producer is closed", Fault.FATAL)
            # Behind what is held already: a record never overtakes another.
            if self._held or not self._cluster.available:
                taken = self._hold(topic, records, told)
            else:
                answers = self._append(topic, records, told)
                taken = len(answers)
            self._unanswered += taken
        self._answer(answers)
        return taken

    def _append(self, topic: str, records: Sequence[ProducerRecord], told: Sequence[Acknowledged]) -> list[Answer]:
        try:
            ends = self._cluster.append(topic, records)
        except BrokerError as error:
            ends = [(error, _unwritten(topic, one)) for one in records]
        return [(acknowledged, error, record) for acknowledged, (error, record) in zip(told, ends, strict=False)]

    def _hold(self, topic: str, records: Sequence[ProducerRecord], told: Sequence[Acknowledged]) -> int:
        deadline = self._cluster.system.monotonic() + self._settings.delivery_timeout
        before = len(self._held)
        for one, acknowledged in zip(records, told, strict=True):
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
                answers = self._deliver() if self._cluster.available else self._expire()
                if not answers:
                    self._serving = False
                    return
            serving.step(get_ident())
            self._answer(answers)

    def _deliver(self) -> list[Answer]:
        answers: list[Answer] = []
        for held in self._take(len(self._held)):
            answers += self._append(held.topic, [held.outgoing], [held.acknowledged])
        return answers

    def _expire(self) -> list[Answer]:
        now = self._cluster.system.monotonic()
        return self._fail(sum(held.deadline <= now for held in self._held), "not delivered in time")

    def _fail(self, count: int, reason: str) -> list[Answer]:
        error = BrokerError(f"memory://{self._cluster.name} is away: {reason}", Fault.UNAVAILABLE)
        return [(held.acknowledged, error, _unwritten(held.topic, held.outgoing)) for held in self._take(count)]

    def _take(self, count: int) -> list[Held]:
        taken = [self._held.popleft() for _ in range(count)]
        self._held_bytes -= sum(held.size for held in taken)
        return taken

    def _answer(self, answers: Sequence[Answer]) -> None:
        for acknowledged, error, record in answers:
            try:
                acknowledged(error, record)
            except Exception:
                _logger.exception("the acknowledgement of a record for topic %s was not taken", record.topic())
        if answers:
            with self._cluster.lock:
                self._unanswered -= len(answers)
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
        while self._unanswered and (left := deadline - self._cluster.system.monotonic()) > 0:
            self._cluster.lock.wait(left)
        return self._unanswered

    def close(self, timeout: float) -> int:
        with self._cluster.lock:
            if self._closed:
                return 0
            self._closed = True
            left = self._flush(timeout)
            answers = self._fail(len(self._held), "the producer was closed")
            self._cluster.lock.notify_all()
        self._answer(answers)
        return left


def _unwritten(topic: str, outgoing: ProducerRecord) -> MemoryRecord:
    partition = -1 if outgoing.partition is None else outgoing.partition
    return MemoryRecord(topic, partition, -1, outgoing, (CREATE_TIME, outgoing.timestamp or 0))

"""The clients of the simulated cluster: those of the in-memory adapter, watched, and slower or worse at will."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flux.adapters.memory.admin import MemoryAdmin
from flux.adapters.memory.consumer import MemoryConsumer
from flux.adapters.memory.group import Member, MemoryMembership
from flux.adapters.memory.producer import MemoryProducer, _unwritten
from flux.adapters.memory.reader import MemoryReader
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    Acknowledged,
    CommittedOffset,
    ConsumerSettings,
    PollResult,
    ProducerRecord,
    ProducerSettings,
    TopicPartition,
    TransactionSettings,
    each_of,
)
from simulation.machine import Process
from simulation.system import Condition
from simulation.transactional_client import TransactionalClient

if TYPE_CHECKING:
    from simulation.world import World

Answer = tuple[Acknowledged, BrokerError | None, Any]


class Adapter:
    """`flux.core.ports.Adapter`."""

    shares_processes = True

    def __init__(self, world: World) -> None:
        self._world = world
        self.cluster = "memory://simulation"

    def consumer(self, settings: ConsumerSettings, listener: Any) -> Consumer:
        return Consumer(self._world, settings, listener, listener)

    def producer(self, settings: ProducerSettings) -> Producer:
        return Producer(self._world, settings)

    def transactions(self, settings: TransactionSettings) -> TransactionalClient:
        return TransactionalClient(self._world, settings)

    def admin(self) -> MemoryAdmin:
        return MemoryAdmin(self._world.cluster)

    def reader(self, starts: Mapping[TopicPartition, int]) -> MemoryReader:
        return MemoryReader(self._world.cluster, starts)


class _Listener:
    """Tells the truth of what the listener hears, before its end is known to others."""

    def __init__(self, consumer: Consumer, listener: Any) -> None:
        self._consumer = consumer
        self._listener = listener

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        starts = self._listener.assigned(partitions)
        self._consumer.truth.assigned(self._consumer, partitions)
        self._consumer.see_membership()
        return starts  # type: ignore[no-any-return]

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        consumer = self._consumer
        consumer.truth.revoking(consumer, partitions)
        consumer.see_membership()
        self._listener.revoked(partitions)
        consumer.truth.revoked(consumer, partitions, consumer.world.stopping(consumer.process))

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self._consumer.truth.lost(self._consumer, partitions)
        self._listener.lost(partitions)


class Consumer(MemoryConsumer):
    """`member`: the flux side of it."""

    def __init__(self, world: World, settings: ConsumerSettings, listener: Any, member: Any) -> None:
        super().__init__(world.cluster, settings, _Listener(self, listener), world.scenario.max_poll_interval)
        self.topic = settings.topic
        self.world = world
        self.truth = world.truth
        self.process: Process = world.machine.current.process  # type: ignore[union-attr]
        self.runtime = member.runtime
        self.coordinator = member.coordinator
        self.group_id = settings.group
        self.read: dict[TopicPartition, CommittedOffset | None] = {}
        self.commit_failed = False
        self.metadata_refused = False
        self.sealed: dict[TopicPartition, int] = {}
        """What had happened before this step was told to the engine before the last transaction was sealed."""
        self._members: list[Member] = []
        self._polled_membership: MemoryMembership | None = None
        self._back: dict[TopicPartition, int] = {}
        """Where cursors were before they were set back."""
        self._slow: deque[tuple[Any, Any]] = deque()
        self.rejoins = False
        """Whether it is to take its partitions for lost, as librdkafka does when the group's coordinator moves."""
        self._kept: set[int] = set()
        """Partitions that it took for lost, while its group did not."""
        world.consumers.append(self)

    def mine(self) -> list[TopicPartition]:
        return [cursor.partition for cursor in self._cursors.values()]

    def poll(self, max_records: int, timeout: float) -> PollResult:
        self._catch_up()
        self.truth.poll_begins(self)
        polled = super().poll(max_records, timeout)
        self.truth.polled(self, polled)
        self.see_membership()
        return polled

    def _rebalance(self, now: float) -> Callable[[], None] | None:
        if self.rejoins:
            self.rejoins = False
            lost = list(self._cursors)
            self._kept.update(lost)
            if lost:
                return lambda: self._lost(lost)
        step = super()._rebalance(now)
        if step is not None or not self._kept or not self._cluster.available:
            return step
        group, member, kept = self._cluster.group(self._group, self._topic), self._member, sorted(self._kept)
        self._kept.clear()
        mine = [p for p in kept if group.owner.get(p) is member]
        assert member is not None
        if moving := [p for p in mine if group.target.get(p) is not member]:
            group.release(member, moving)
        logs = self._cluster.topics[self._topic].logs
        again = {TopicPartition(self._topic, p): logs[p] for p in mine if group.target.get(p) is member}
        return (lambda: self._assigned(again)) if again else None

    def _fetch(self, max_records: int) -> PollResult:
        world = self.world
        for cursor in self._cursors.values():
            if self._back.get(cursor.partition, 0) >= cursor.log.low > cursor.offset:
                cursor.offset = cursor.log.low  # it was set back here, and is not behind the log by itself
            if cursor.offset > 0 and not cursor.out_of_range and world.chance(world.scenario.duplicates):
                position = self.read.get(cursor.partition)
                start = max(cursor.log.low, 0 if position is None else position.offset)
                if cursor.offset > start:
                    self._back[cursor.partition] = max(cursor.offset, self._back.get(cursor.partition, 0))
                    cursor.offset = max(start, cursor.offset - 1 - int(3 * world.random.random()))
        return super()._fetch(max_records)

    def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset | None]:
        found = super().committed(partitions, timeout)
        self.read.update(found)
        return found

    def commit(
        self, offsets: Mapping[TopicPartition, CommittedOffset], done: Callable[[BrokerError | None], None]
    ) -> None:
        if not self._closed and self.world.chance(self.world.scenario.slow_commits):
            self._slow.append((offsets, done))
        else:
            super().commit(offsets, done)

    def membership(self) -> MemoryMembership | None:
        of_poll = self.world.scenario.memberships_of_polls
        found = self._polled_membership if of_poll and not self._closed else super().membership()
        if found is not None:
            self._members = [*self._members[-10:], found.member]
        if found is not None and self.process not in self.truth.visible.writing:
            epochs = {at: self.truth.epochs.get((self.process, at)) for at in self.mine()}
            self.sealed = {at: epoch.known for at, epoch in epochs.items() if epoch is not None}
        return found

    def see_membership(self) -> None:
        if self.world.scenario.memberships_of_polls:
            self._polled_membership = super().membership()

    def joined(self, member: Member) -> bool:
        return member in self._members

    def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        self._catch_up()
        self.world.machine.point()
        try:
            super().commit_now(offsets, timeout)
        except BrokerError as error:
            self.commit_failed = True
            self.metadata_refused = self.metadata_refused or error.fault is Fault.METADATA
            raise

    def close(self) -> None:
        if not self._closed:
            self._catch_up()
        super().close()

    def _catch_up(self) -> None:
        while self._slow:
            offsets, done = self._slow.popleft()
            super().commit(offsets, done)


class Producer:
    """`flux.core.ports.ProducerPort`. With latency, records are written and acknowledged by a thread of its own, one
    after the other; until then a crash loses them."""

    def __init__(self, world: World, settings: ProducerSettings) -> None:
        self._world = world
        self._inner = MemoryProducer(world.cluster, settings)
        self._process: Process = world.machine.current.process  # type: ignore[union-attr]
        self._latency = world.scenario.latency
        self._queue: deque[tuple[str, ProducerRecord, Acknowledged]] = deque()
        self._changed = Condition(world.machine)
        self._busy = False
        self._serving = False
        self._closed = False
        self._broken = False

    def write(
        self, topic: str, records: Sequence[ProducerRecord], acknowledged: Acknowledged | Sequence[Acknowledged]
    ) -> int:
        world = self._world
        world.machine.point()
        fault = world.failures.of_client()
        if fault == "broken" or self._broken:
            self._broken = True
            raise BrokerError("the client broke", Fault.FATAL)
        if fault == "full":
            records = records[: len(records) // 2]
            if not records:
                return 0
        if self._closed:
            raise BrokerError("the producer is closed", Fault.FATAL)
        world.truth.forwards.handed(self._process, topic, records)

        def told(ended: Acknowledged, error: BrokerError | None, record: Any) -> None:
            world.machine.touch()
            world.truth.forwards.answered(error, record)
            ended(error, record)

        ends = [partial(told, ended) for _, ended in zip(records, each_of(acknowledged, records), strict=False)]

        if not self._latency:
            taken = 0
            try:
                taken = self._inner.write(topic, records, ends)
            finally:
                world.truth.forwards.not_taken(topic, records[taken:])
            return taken
        with self._changed:
            self._queue.extend((topic, record, told) for record, told in zip(records, ends, strict=True))
            self._changed.notify_all()
            if not self._serving:
                self._serving = True
                world.machine.spawn("client", self._serve)
        return len(records)

    def _serve(self) -> None:
        machine = self._world.machine
        while True:
            with self._changed:
                if not self._queue:
                    self._serving = False
                    return
                topic, record, told = self._queue.popleft()
                self._busy = True
            machine.park(self._latency * self._world.random.random())
            answers: list[tuple[BrokerError | None, Any]] = []
            self._inner.write(topic, [record], lambda error, stored, to=answers: to.append((error, stored)))  # type: ignore[misc]
            while not answers:
                machine.park(self._latency, rounds=True)
            machine.park(self._latency * self._world.random.random())
            told(*answers[0])
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def partitions(self, topic: str, timeout: float) -> int:
        self._world.machine.point()
        return self._inner.partitions(topic, timeout)

    def flush(self, timeout: float) -> int:
        machine = self._world.machine
        deadline = machine.time + timeout
        with self._changed:
            while (self._queue or self._busy) and machine.time < deadline:
                self._changed.wait(deadline - machine.time)
            left = len(self._queue) + self._busy
        return left + self._inner.flush(max(0.0, deadline - machine.time))

    def close(self, timeout: float) -> int:
        if self._closed:
            return 0
        self._closed = True
        left = self.flush(timeout)
        with self._changed:
            queue, self._queue = list(self._queue), deque()
        for topic, record, told in queue:
            told(BrokerError("the producer was closed", Fault.UNAVAILABLE), _unwritten(topic, record))
        if not self._busy:
            self._inner.close(0)
        return left

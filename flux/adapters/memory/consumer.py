"""The in-memory consumer: a member of a group, with a cursor in each assigned partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from flux.adapters.memory.cluster import MemoryCluster, Sleeper
from flux.adapters.memory.group import Member, MemoryMembership
from flux.adapters.memory.log import Log
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Batch, CommittedOffset, ConsumerSettings, PollResult, RebalanceListener, TopicPartition


@attrs.define
class ConsumerCursor:
    partition: TopicPartition
    log: Log
    offset: int
    paused: bool = False
    out_of_range: bool = False
    """Reported already; nothing is read until `seek`."""


class MemoryConsumer:
    """`flux.core.ports.ConsumerPort`. Commits take effect at once and are answered in the next `poll` or `close`."""

    def __init__(
        self,
        cluster: MemoryCluster,
        settings: ConsumerSettings,
        listener: RebalanceListener,
        max_poll_interval: float,
    ) -> None:
        self.max_poll_interval = max_poll_interval
        self._cluster = cluster
        self._topic = settings.topic
        self._group = settings.group
        self._client_id = f"flux-{settings.task}" if settings.task else "memory"
        self._listener = listener
        self._sleeper = Sleeper(cluster.system)
        self._member: Member | None = None
        self._notified = False  # whether the listener was notified of this member's assignment, even an empty one
        # The partition that was read longest ago comes first.
        self._cursors: dict[int, ConsumerCursor] = {}
        self._answers: list[Callable[[], None]] = []
        self._topic_found = False  # whether the topic has ever existed
        self._closed = False

    def poll(self, max_records: int, timeout: float) -> PollResult:
        self._answer()
        deadline = self._cluster.system.monotonic() + timeout
        while True:
            with self._cluster.lock:
                self._require_open()
                self._cluster.check_poll(self._group, self._topic)
                self._cluster.expire_transactions()
                now = self._cluster.system.monotonic()
                if self._cluster.available and not self._topic_found:
                    # As Kafka's clients: a topic that is deleted later is no error.
                    self._cluster.topic(self._topic)
                    self._topic_found = True
                notify = self._rebalance(now)
                if notify is None:
                    polled = self._fetch(max_records) if self._cluster.available else PollResult()
                    if polled.batches or polled.out_of_range or now >= deadline:
                        if not polled.batches:
                            polled.reached = {
                                cursor.partition: cursor.offset
                                for cursor in self._cursors.values()
                                if not cursor.out_of_range
                            }
                        return polled
                    seconds = self._fall_asleep(now, deadline)
            if notify is None:
                self._sleeper.sleep(seconds)
            else:
                notify()

    def _rebalance(self, now: float) -> Callable[[], None] | None:
        """One step of membership. Returns a call of the listener to make, without the lock, before the next step."""
        group, member = self._cluster.group(self._group, self._topic), self._member
        group.expire(now)
        if member is not None:
            member.last_poll = now
        lost = [p for p in self._cursors if group.owner.get(p) is not member]
        if lost:
            return lambda: self._lost(lost)
        if not self._cluster.available:
            return None
        if member is None or member not in group.members:
            member = self._member = Member(self.max_poll_interval, now, self._client_id)
            group.join(member)
            self._notified = False
        # As in Kafka, each rebalance gives a new generation to the members that keep what they have, too.
        member.generation = group.generation
        revoked = [p for p in self._cursors if group.target.get(p) is not member]
        if revoked:
            return lambda: self._revoked(revoked)
        claimed = group.claim(member)
        if claimed:
            logs = self._cluster.topics[self._topic].logs
            new = {TopicPartition(self._topic, p): logs[p] for p in claimed}
            self._notified = True
            return lambda: self._assigned(new)
        if not self._notified and not any(owner is member for owner in group.target.values()):
            self._notified = True
            return lambda: self._assigned({})
        return None

    def _assigned(self, new: Mapping[TopicPartition, Log]) -> None:
        starts = self._listener.assigned(list(new))
        with self._cluster.lock:
            for at, log in new.items():
                self._cursors[at.partition] = ConsumerCursor(at, log, log.resolve(starts[at]))

    def _revoked(self, partitions: Sequence[int]) -> None:
        self._listener.revoked([TopicPartition(self._topic, p) for p in sorted(partitions)])
        with self._cluster.lock:
            for partition in partitions:
                del self._cursors[partition]
            if self._member is not None:
                self._cluster.group(self._group, self._topic).release(self._member, partitions)

    def _lost(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            del self._cursors[partition]
        self._listener.lost([TopicPartition(self._topic, p) for p in sorted(partitions)])

    def _fetch(self, max_records: int) -> PollResult:
        polled = PollResult()
        for partition, cursor in list(self._cursors.items()):
            if cursor.paused or cursor.out_of_range:
                continue
            if not cursor.log.low <= cursor.offset <= cursor.log.high:
                cursor.out_of_range = True
                polled.out_of_range.append(cursor.partition)
                continue
            records = cursor.log.read(cursor.offset, max_records)
            if records:
                cursor.offset = records[-1].at + 1
                self._cursors[partition] = self._cursors.pop(partition)
                polled.batches.append(Batch(cursor.partition, records))
                max_records -= len(records)
                if max_records <= 0:
                    break
            else:
                cursor.offset = max(cursor.offset, cursor.log.stable)  # there is only a gap between
        return polled

    def _fall_asleep(self, now: float, deadline: float) -> float:
        """Seconds to sleep, at most until a member may be evicted or a transaction aborted, which do not wake it."""
        group = self._cluster.group(self._group, self._topic)
        until = min(deadline, group.next_expiry(now), self._cluster.transactions.next_expiry())
        if self._member is not None:
            self._member.last_poll = until
        self._cluster.add_sleeper(self._sleeper, self._topic)
        return until - now

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._set_paused(partitions, True)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._set_paused(partitions, False)

    def _set_paused(self, partitions: Iterable[TopicPartition], paused: bool) -> None:
        with self._cluster.lock:
            for at in partitions:
                if at.topic == self._topic and at.partition in self._cursors:
                    self._cursors[at.partition].paused = paused

    def seek(self, partition: TopicPartition, offset: int) -> None:
        with self._cluster.lock:
            cursor = self._cursors.get(partition.partition)
            if cursor is None or partition.topic != self._topic:
                raise BrokerError(f"seek: {partition} is not assigned")
            cursor.offset = cursor.log.resolve(offset)
            cursor.out_of_range = False

    def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset | None]:
        with self._cluster.lock:
            self._require_open()
            self._cluster.require_settled(self._group, partitions, timeout)
            return {at: self._cluster.group(self._group, at.topic).committed.get(at.partition) for at in partitions}

    def commit(
        self, offsets: Mapping[TopicPartition, CommittedOffset], done: Callable[[BrokerError | None], None]
    ) -> None:
        error: BrokerError | None = None
        try:
            self.commit_now(offsets, 0)
        except BrokerError as reason:
            error = reason
        if self._closed:
            done(error)
        else:
            self._answers.append(lambda: done(error))

    def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        with self._cluster.lock:
            self._require_open()
            self._cluster.require_available(timeout)
            error = self._cluster.commit(self._group, self._topic, self._member, offsets)
        if error is not None:
            raise error

    def membership(self) -> MemoryMembership | None:
        with self._cluster.lock:
            member, group = self._member, self._cluster.group(self._group, self._topic)
            group.expire(self._cluster.system.monotonic())
            if self._closed or member is None or member not in group.members:
                return None
            return MemoryMembership(self._group, self._topic, member, member.generation)

    def close(self) -> None:
        if self._closed:
            return
        with self._cluster.lock:
            group, member = self._cluster.group(self._group, self._topic), self._member
            group.expire(self._cluster.system.monotonic())
            lost = [p for p in self._cursors if group.owner.get(p) is not member]
            owned = [p for p in self._cursors if p not in lost]
        if lost:
            self._lost(lost)
        if owned:
            self._revoked(owned)
        with self._cluster.lock:
            if member is not None:
                group.leave(member)
        self._closed = True
        self._answer()

    def _answer(self) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            answer()

    def _require_open(self) -> None:
        if self._closed:
            raise BrokerError("the consumer is closed", Fault.FATAL)

"""The state that all clients of one in-memory broker share, and the one lock that guards it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from flux.adapters.memory.coordinator import OpenTransaction, StoreOffset, TransactionCoordinator
from flux.adapters.memory.group import Group, Member, MemoryMembership
from flux.adapters.memory.log import End, Topic
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, ProducerRecord, System, TopicPartition

MAX_METADATA = 4096
"""UTF-16 units of a committed offset's metadata (Kafka's offset.metadata.max.bytes)."""

WriteFault = Callable[[str, int, ProducerRecord], BrokerError | None]
CommitFault = Callable[[str, TopicPartition, CommittedOffset], BrokerError | None]
PollFault = Callable[[str, str], BrokerError | None]
TransactionFault = Callable[[str, str], BrokerError | None]

_TOPIC_NAME = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")


class Sleeper:
    """Lets one consumer wait. It has its own lock, so that a write wakes only the consumers of that topic."""

    def __init__(self, system: System) -> None:
        self._condition = system.condition()
        self._woken = False

    def wake(self) -> None:
        with self._condition:
            self._woken = True
            self._condition.notify()

    def sleep(self, seconds: float) -> None:
        """Returns when woken, also before the call, or after `seconds`."""
        with self._condition:
            if not self._woken:
                self._condition.wait(seconds)
            self._woken = False


class MemoryCluster:
    """Every method is called with `lock` held. It calls no listener, and of callbacks only a test's faults."""

    def __init__(self, name: str, system: System, default_partitions: int, auto_create: bool) -> None:
        self.name = name
        self.system = system
        self.lock = system.condition()
        self.topics: dict[str, Topic] = {}
        self.available = True
        self.refuse_write: WriteFault | None = None
        self.lose_write: WriteFault | None = None
        self.refuse_commit: CommitFault | None = None
        self.lose_commit: CommitFault | None = None
        self.refuse_poll: PollFault | None = None
        self.refuse_transaction: TransactionFault | None = None
        self.lose_transaction: TransactionFault | None = None
        self.transactions = TransactionCoordinator(system, self._store_offset, self._transaction_ended)
        self._default_partitions = default_partitions
        self._auto_create = auto_create
        self._groups: dict[tuple[str, str], Group] = {}
        self._sleepers: dict[str, dict[Sleeper, None]] = {}

    def require_available(self, timeout: float) -> None:
        """Waits `timeout` seconds for an outage to end."""
        deadline = self.system.monotonic() + timeout
        while not self.available:
            left = deadline - self.system.monotonic()
            if left <= 0:
                raise BrokerError(f"memory://{self.name} is unavailable", Fault.UNAVAILABLE)
            self.lock.wait(left)

    def require_settled(self, group: str, partitions: Collection[TopicPartition], timeout: float) -> None:
        """Waits `timeout` seconds for an outage to end, and for transactions that hold committed offsets of these
        partitions."""
        deadline = self.system.monotonic() + timeout
        while True:
            self.require_available(deadline - self.system.monotonic())
            self.transactions.expire()
            if not self.transactions.awaited(group, partitions):
                return
            now = self.system.monotonic()
            if now >= deadline:
                raise BrokerError(f"a transaction with offsets of group {group} is open", Fault.UNAVAILABLE)
            self.lock.wait(min(deadline, self.transactions.next_expiry()) - now)

    def topic(self, name: str, *, written: bool = False) -> Topic:
        """`written`: creates a topic that does not exist, if the cluster allows it."""
        found = self.topics.get(name)
        if found is None and written and self._auto_create:
            found = self.create(name, self._default_partitions, 1, {})
        if found is None:
            raise BrokerError(f"there is no topic {name}", Fault.UNKNOWN_TOPIC)
        return found

    def create(self, name: str, partitions: int, replication_factor: int, config: Mapping[str, str]) -> Topic:
        if not _TOPIC_NAME.fullmatch(name):
            raise BrokerError(f"{name!r} is not a valid topic name in Kafka")
        if partitions == -1:
            partitions = self._default_partitions
        if partitions < 1:
            raise BrokerError(f"{name}: a topic has at least one partition")
        topic = self.topics[name] = Topic(name, partitions, max(replication_factor, 1), config)
        for group in self.groups_on(name):
            group.resize(partitions)
        return topic

    def delete(self, name: str) -> None:
        """Also deletes its records and committed offsets; its consumers lose their partitions."""
        self.topic(name)
        del self.topics[name]
        for group in self.groups_on(name):
            group.forget()

    def groups_on(self, topic: str) -> list[Group]:
        return [group for (_, name), group in self._groups.items() if name == topic]

    def topics_of(self, group: str) -> list[tuple[str, Group]]:
        return [(topic, found) for (name, topic), found in self._groups.items() if name == group]

    def group(self, group: str, topic: str) -> Group:
        found = self._groups.get((group, topic))
        if found is None:
            known = self.topics.get(topic)
            found = Group(len(known.logs) if known else 0, lambda: self.wake(topic))
            self._groups[group, topic] = found
        return found

    def append(self, name: str, outgoing: Sequence[ProducerRecord]) -> list[End]:
        topic = self.topic(name, written=True)
        refuse, lose = self.refuse_write, self.lose_write
        ends = topic.append(
            outgoing,
            int(self.system.now() * 1000),
            None if refuse is None else lambda partition, one: refuse(name, partition, one),
            None if lose is None else lambda partition, one: lose(name, partition, one),
        )
        self.wake(name)
        return ends

    def commit(
        self, group: str, topic: str, member: Member | None, offsets: Mapping[TopicPartition, CommittedOffset]
    ) -> BrokerError | None:
        """Stores the offsets that it can and returns the first error. As in Kafka, a member may commit any partition,
        assigned or not; a former member may commit none."""
        membership = self.group(group, topic)
        membership.expire(self.system.monotonic())
        if member not in membership.members:
            return BrokerError(f"no member of {group} (any more)", Fault.FENCED)
        return self._commit_all(group, offsets, self._store_offset)

    def commit_from_outside(
        self, group: str, topic: str, offsets: Mapping[TopicPartition, CommittedOffset]
    ) -> BrokerError | None:
        """Commits as an operator does; refused while the group has members."""
        self.topic(topic)
        for _, membership in self.topics_of(group):
            membership.expire(self.system.monotonic())
            if membership.members:
                return BrokerError(f"group {group} has members", Fault.FENCED)
        return self._commit_all(group, offsets, self._store_offset)

    def _commit_all(
        self, group: str, offsets: Mapping[TopicPartition, CommittedOffset], store: StoreOffset
    ) -> BrokerError | None:
        errors = [self._commit_one(group, partition, offset, store) for partition, offset in offsets.items()]
        return next((error for error in errors if error is not None), None)

    def _commit_one(
        self, group: str, at: TopicPartition, offset: CommittedOffset, store: StoreOffset
    ) -> BrokerError | None:
        topic = self.topics.get(at.topic)
        if topic is None or not 0 <= at.partition < len(topic.logs):
            return BrokerError(f"there is no {at}", Fault.UNKNOWN_TOPIC)
        try:
            size = len(offset.metadata.encode("utf-16-le"))
        except UnicodeEncodeError:
            return BrokerError(f"{at}: the metadata cannot be encoded", Fault.METADATA)
        if size > 2 * MAX_METADATA:
            return BrokerError(f"{at}: more than {MAX_METADATA} characters", Fault.METADATA)
        if self.refuse_commit is not None and (error := self.refuse_commit(group, at, offset)):
            return error
        store(group, at, offset)
        return self.lose_commit(group, at, offset) if self.lose_commit is not None else None

    def _store_offset(self, group: str, at: TopicPartition, offset: CommittedOffset) -> None:
        if at.topic in self.topics:  # it may have been deleted since a transaction took the offset
            self.group(group, at.topic).committed[at.partition] = offset

    def add_offsets(
        self,
        transaction: OpenTransaction,
        membership: MemoryMembership,
        offsets: Mapping[TopicPartition, CommittedOffset],
    ) -> BrokerError | None:
        """Adds the offsets that it can and returns the first error. As in Kafka, a member of the present generation may
        commit any partition."""
        group = self.group(membership.group, membership.topic)
        group.expire(self.system.monotonic())
        member = membership.member
        if member not in group.members or member.generation != membership.generation:
            return BrokerError(f"group {membership.group}: a former generation cannot commit", Fault.FENCED)

        def add(name: str, at: TopicPartition, offset: CommittedOffset) -> None:
            transaction.offsets[name, at] = offset

        return self._commit_all(membership.group, offsets, add)

    def expire_transactions(self) -> None:
        if self.available:
            self.transactions.expire()

    def _transaction_ended(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self.wake(topic)
        self.lock.notify_all()

    def transaction_fault(self, step: str, name: str, *, stored: bool = False) -> BrokerError | None:
        fault = self.lose_transaction if stored else self.refuse_transaction
        return None if fault is None else fault(step, name)

    def check_poll(self, group: str, topic: str) -> None:
        if self.refuse_poll is not None and (error := self.refuse_poll(group, topic)):
            raise error

    def add_sleeper(self, sleeper: Sleeper, topic: str) -> None:
        """From now on `wake` wakes it, even before it sleeps."""
        self._sleepers.setdefault(topic, {})[sleeper] = None

    def wake(self, topic: str) -> None:
        for sleeper in self._sleepers.pop(topic, ()):
            sleeper.wake()

    def wake_all(self) -> None:
        for topic in list(self._sleepers):
            self.wake(topic)
        self.lock.notify_all()

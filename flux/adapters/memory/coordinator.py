"""The transaction coordinator of the in-memory cluster: which transactions are open, and what their end changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import attrs

from flux.adapters.memory.log import Log, MemoryRecord
from flux.core.errors import Fault
from flux.core.ports import CommittedOffset, Superseded, System, TopicPartition

StoreOffset = Callable[[str, TopicPartition, CommittedOffset], object]


@attrs.define(eq=False)
class OpenTransaction:
    """From its first record or offset on. `deadline`: seconds by the monotonic clock."""

    deadline: float
    topics: dict[str, None] = attrs.field(factory=dict)
    """In order of their first records."""
    firsts: dict[Log, int] = attrs.field(factory=dict)
    """The offset of its first record in each log."""
    offsets: dict[tuple[str, TopicPartition], CommittedOffset] = attrs.field(factory=dict)
    """By group and partition."""

    def wrote(self, log: Log, record: MemoryRecord) -> None:
        self.topics[record.topic()] = None
        log.open.setdefault(self.firsts.setdefault(log, record.at), []).append(record)

    def end(self, now_ms: int, *, commits: bool) -> None:
        for log, first in self.firsts.items():
            log.end_transaction(first, now_ms, commits=commits)


class TransactionCoordinator:
    """Every method is called with the cluster's lock held. `store` stores a committed offset; `ended` is called with
    the topics of each transaction that has ended."""

    def __init__(self, system: System, store: StoreOffset, ended: Callable[[Collection[str]], object]) -> None:
        self._system = system
        self._now = system.monotonic
        self._store = store
        self._ended = ended
        self._epochs: dict[str, int] = {}
        self._open: dict[str, OpenTransaction] = {}

    def start(self, name: str) -> int:
        """A new client's epoch. Aborts what a former one left open."""
        self._epochs[name] = self._epochs.get(name, -1) + 1
        self._end(name, commits=False)
        return self._epochs[name]

    def _check(self, name: str, epoch: int) -> None:
        self.expire()
        if self._epochs.get(name) != epoch:
            raise Superseded(
                f"transactional id {name}: another client of it has started, or it timed out", Fault.FENCED
            )

    def of(self, name: str, epoch: int, timeout: float) -> OpenTransaction:
        """The client's open transaction, which this begins if there is none. Raises Superseded."""
        self._check(name, epoch)
        if name not in self._open:
            self._open[name] = OpenTransaction(self._now() + timeout)
        return self._open[name]

    def commit(self, name: str, epoch: int) -> None:
        """Raises Superseded."""
        self._check(name, epoch)
        self._end(name, commits=True)

    def _end(self, name: str, *, commits: bool) -> None:
        transaction = self._open.pop(name, None)
        if transaction is None:
            return
        transaction.end(int(self._system.now() * 1000), commits=commits)
        if commits:
            for (group, at), offset in transaction.offsets.items():
                self._store(group, at, offset)
        self._ended(transaction.topics)

    def expire(self) -> None:
        """Aborts each transaction whose time is over. As in Kafka, its client is superseded."""
        for name in [name for name, each in self._open.items() if each.deadline <= self._now()]:
            self.start(name)

    def next_expiry(self) -> float:
        """By the monotonic clock."""
        return min((each.deadline for each in self._open.values()), default=math.inf)

    def awaited(self, group: str, partitions: Collection[TopicPartition]) -> bool:
        """Whether an open transaction has offsets of the group for one of the partitions."""
        return any((group, at) in each.offsets for each in self._open.values() for at in partitions)

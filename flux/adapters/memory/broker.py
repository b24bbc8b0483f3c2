"""The in-memory cluster as a test controls it: actions of an operator, and faults."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flux.adapters.memory.cluster import CommitFault, MemoryCluster, PollFault, TransactionFault, WriteFault
from flux.adapters.memory.coordinator import OpenTransaction
from flux.adapters.memory.log import Log, MemoryRecord
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition
from flux.core.validation import plain


class Broker:
    """One in-memory cluster. Thread-safe. Methods raise BrokerError (UNKNOWN_TOPIC) where there is no such topic."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster

    @property
    def available(self) -> bool:
        """False is an outage: polls are empty, no member joins, and records and requests wait and then fail."""
        return self._cluster.available

    @available.setter
    def available(self, available: bool) -> None:
        with self._cluster.lock:
            self._cluster.available = available
            self._cluster.wake_all()

    def fail_writes(self, fault: WriteFault | None, *, stored: bool = False) -> None:
        """`fault(topic, partition, record)` is called for each record: an error refuses it; None accepts it. With
        `stored` the record is stored all the same, and only its acknowledgement is lost. `fault` None ends this fault.
        It is called with the broker's lock held, so it must not call the broker."""
        with self._cluster.lock:
            if stored:
                self._cluster.lose_write = fault
            else:
                self._cluster.refuse_write = fault

    def fail_commits(self, fault: CommitFault | None, *, stored: bool = False) -> None:
        """`fault(group, partition, committed_offset)` is called for each offset, as in `fail_writes`."""
        with self._cluster.lock:
            if stored:
                self._cluster.lose_commit = fault
            else:
                self._cluster.refuse_commit = fault

    def fail_transactions(self, fault: TransactionFault | None, *, stored: bool = False) -> None:
        """`fault(step, transactional_id)` is called for each request of a transactional producer (`start`, `begin`,
        `write`, `flush`, `add_offsets`, `commit`): an error ends it, and nothing is done. With `stored` it is called
        for each commit, whose transaction is committed all the same: only its answer is lost, so return InDoubt. Other
        errors mean that it was not committed. Records and offsets in a transaction also pass the faults of
        `fail_writes` and `fail_commits`."""
        with self._cluster.lock:
            if stored:
                self._cluster.lose_transaction = fault
            else:
                self._cluster.refuse_transaction = fault

    def fail_polls(self, fault: PollFault | None) -> None:
        """`fault(group, topic)` is called for each poll, also for those that wait: an error ends it."""
        with self._cluster.lock:
            self._cluster.refuse_poll = fault
            self._cluster.wake_all()

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        name = plain(name)
        with self._cluster.lock:
            if name in self._cluster.topics:
                raise BrokerError(f"topic {name} exists already")
            self._cluster.create(name, partitions, 1, config or {})

    def grow_topic(self, name: str, partitions: int) -> None:
        """To `partitions` in all; records stay where they are."""
        name = plain(name)
        with self._cluster.lock:
            topic = self._cluster.topic(name)
            if partitions <= len(topic.logs):
                raise BrokerError(f"{name} has {len(topic.logs)} partitions already")
            topic.logs += [Log() for _ in range(partitions - len(topic.logs))]
            for group in self._cluster.groups_on(name):
                group.resize(partitions)

    def delete_topic(self, name: str) -> None:
        """Also deletes its records and committed offsets; its consumers lose their partitions."""
        with self._cluster.lock:
            self._cluster.delete(plain(name))

    def delete_records(self, partition: TopicPartition, before: int) -> None:
        """Raises the low watermark to `before`, as retention does."""
        with self._cluster.lock:
            log = self._log(partition)
            if before > log.high:
                raise BrokerError(f"{partition} ends at {log.high}, before {before}")
            log.delete_before(before)
            self._cluster.wake(partition.topic)

    def write_transaction(self, topic: str, records: Sequence[ProducerRecord], *, commits: bool) -> None:
        """Records in one transaction, which is committed or aborted, with its marker in each partition. It is over
        when this returns: nobody sees it open."""
        with self._cluster.lock:
            found = self._cluster.topic(plain(topic))
            transaction = OpenTransaction(math.inf)
            now_ms = int(self._cluster.system.now() * 1000)
            for error, record in found.append(records, now_ms, None, None):
                if error is not None:
                    raise error
                transaction.wrote(found.logs[record.partition()], record)
            transaction.end(now_ms, commits=commits)
            self._cluster.wake(topic)

    def skip_offsets(self, partition: TopicPartition, count: int) -> None:
        """Leaves a gap at the end of the partition, as a transaction's marker does."""
        with self._cluster.lock:
            self._log(partition).high += count

    def records(self, topic: str) -> list[MemoryRecord]:
        """All records of the topic, by partition and offset, without those of aborted and open transactions; empty when
        it does not exist."""
        with self._cluster.lock:
            self._cluster.expire_transactions()
            found = self._cluster.topics.get(plain(topic))
            return [record for log in (found.logs if found else ()) for record in log.settled()]

    def committed_offsets(self, group: str, topic: str) -> dict[int, CommittedOffset]:
        with self._cluster.lock:
            return dict(self._cluster.group(plain(group), plain(topic)).committed)

    def set_committed_offset(self, group: str, partition: TopicPartition, offset: CommittedOffset) -> None:
        """As an operator or another client does; members do not notice it."""
        with self._cluster.lock:
            self._log(partition)
            self._cluster.group(plain(group), plain(partition.topic)).committed[partition.partition] = offset

    def _log(self, at: TopicPartition) -> Log:
        logs = self._cluster.topic(plain(at.topic)).logs
        if not 0 <= at.partition < len(logs):
            raise BrokerError(f"there is no {at}", Fault.UNKNOWN_TOPIC)
        return logs[at.partition]

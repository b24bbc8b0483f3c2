"""One cluster through one adapter: performs concrete steps and returns what the ports returned, in plain values."""

from __future__ import annotations

import time
from collections.abc import Iterable

import attrs

from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    BEGINNING,
    CommittedOffset,
    PollResult,
    ProducerRecord,
    Record,
    TopicPartition,
    TransactionPort,
)
from flux.testing.contract import Bench
from flux.testing.contract.members import ContractMember
from proof.model.steps import Draft
from proof.model.topic import QUIET, Shown, Topic, raised, shown

STABLE = 0.4
"""Seconds for which an assignment must stay as it is to count as the group's."""
LATE = -1
"""The number of a member that is late."""


@attrs.frozen
class Drained:
    records: dict[int, list[Shown]]
    """By partition, as they came."""
    out_of_range: list[int]
    ends: dict[int, int]
    """Where each partition that is consumed was read to."""


class Subject(Topic):
    def __init__(self, bench: Bench, partitions: int) -> None:
        super().__init__(bench, partitions)
        self.members: dict[int, ContractMember] = {}
        self.paused: set[int] = set()
        self.at: dict[int, int] = {}
        """Where consumption of each owned partition is."""
        self._arrived: dict[int, list[Shown]] = {}
        self._lost_range: set[int] = set()

    # -- writing

    def produce(self, partition: int | None, drafts: Iterable[Draft]) -> list[Shown]:
        records = [
            ProducerRecord(draft.value, draft.key, draft.headers, partition, draft.timestamp) for draft in drafts
        ]
        ends: list[tuple[BrokerError | None, Record]] = []
        taken = self._producer.write(self.topic, records, lambda error, record: ends.append((error, record)))
        assert taken == len(records)
        assert self._producer.flush(self.bench.seconds) == 0
        assert len(ends) == len(records), f"{len(ends)} acknowledgements for {len(records)} records"
        shown = [(_fault(error), *_place(record)) if error is None else (_fault(error),) for error, record in ends]
        return sorted(shown, key=repr)

    def transact(self, values: tuple[bytes, ...], offset: tuple[int, int] | None, commits: bool) -> None:
        """Records in partition 0 and, as (partition, offset), what a member commits with them. By the adapter's own
        transactional producer, which is closed instead of committing; where there is none, a commit of the member
        follows the transaction."""
        if hasattr(self.bench.adapter, "transactions"):
            self._transact(values, offset, commits)
            return
        assert self.bench.transact is not None
        self.bench.transact(self.topic, values, commits)
        if offset is not None and commits:
            assert self.commit(*offset, "transaction", waits=True) is None

    def _transact(self, values: tuple[bytes, ...], offset: tuple[int, int] | None, commits: bool) -> None:
        name, seconds = self.bench.name(), self.bench.seconds
        end = self.watermarks()[0][1] + len(values) + 1
        begun: list[TransactionPort] = []
        self.bench.until(lambda: self._begin(name, offset, begun), self._poll_all)
        [transactions] = begun
        transactions.write(self.topic, [ProducerRecord(value, partition=0) for value in values])
        transactions.flush(seconds)
        if commits:
            transactions.commit(seconds)
        transactions.close()
        if not commits:
            self.bench.transactions(name).close()  # aborts it
        self.bench.until(lambda: self.watermarks()[0][1] >= end)  # the coordinator answers before its marker is there

    def _begin(self, name: str, offset: tuple[int, int] | None, begun: list[TransactionPort]) -> bool:
        """Not while the group is in a rebalance."""
        transactions = self.bench.transactions(name)
        transactions.begin()
        if offset is not None:
            membership = self.owner(offset[0]).membership()
            committed = {TopicPartition(self.topic, offset[0]): CommittedOffset(offset[1], "transaction")}
            try:
                if membership is None:
                    raise BrokerError("no member", Fault.FENCED)
                transactions.add_offsets(membership, committed, self.bench.seconds)
            except BrokerError as error:
                transactions.close()
                if error.fault is not Fault.FENCED:
                    raise
                return False
        begun.append(transactions)
        return True

    # -- the group

    def join(self, number: int) -> list[int]:
        self.members[number] = self.bench.member(self.topic, self.group, start=None)
        return self.settle()

    def leave(self, number: int) -> list[int]:
        self.members.pop(number).close()
        return self.settle()

    def settle(self) -> list[int]:
        """Polls until the cluster has these members and no other, and they share the partitions evenly; how many each
        has, in order of the counts."""
        if not self.members:
            for state in (self.at, self.paused, self._arrived, self._lost_range):
                state.clear()
            self.bench.until(lambda: self.shares() == [])
            return []

        def shared() -> bool:
            """By what the members have seen. Before its first assignment a member has not joined, and librdkafka does
            not limit the time between its polls."""
            counts = self._counts()
            seen = all(member.events.calls for member in self.members.values())
            return seen and sum(counts) == self.partitions and counts[-1] - counts[0] <= 1

        def stays() -> bool:
            """A rebalance has two rounds, and a member that leaves in the second waits for those that do not poll."""
            until = time.monotonic() + STABLE
            while shared():
                if self.shares() != self._counts():
                    return False
                if time.monotonic() >= until:
                    return True
                self._poll_all()
            return False

        before = {at for member in self.members.values() for at in member.events.owned}
        self.bench.until(stays, self._poll_all)
        for number in range(self.partitions):
            if TopicPartition(self.topic, number) not in before:
                self.paused.discard(number)
        return self._counts()

    def _counts(self) -> list[int]:
        return sorted(len(member.events.owned) for member in self.members.values())

    def owner(self, partition: int) -> ContractMember:
        at = TopicPartition(self.topic, partition)
        return next(member for member in self.members.values() if at in member.events.owned)

    def expire(self, offsets: dict[int, int]) -> Shown:
        """A member joins, does not poll for longer than it may, and commits. Whether it was refused, whether the
        group's offsets stayed, and how many partitions each member has in the end."""
        stale = self.bench.member(self.topic, self.group, start=None, adapter=self.bench.impatient)
        others = dict(self.members)
        self.members[LATE] = stale
        self.settle()
        self.members = others
        self.settle()
        before = self.committed()
        theirs = {TopicPartition(self.topic, at): CommittedOffset(to) for at, to in offsets.items()}
        refused = raised(lambda: stale.commit_now(theirs))
        stayed = before == self.committed()
        stale.close()
        return refused is not None, stayed, self.settle()

    # -- consuming

    def drain(self) -> Drained:
        """Polls until each partition that is consumed was read to its end. One that is out of range is read from its
        beginning again."""
        highs = {number: marks.high for number, marks in self.marks().items()}
        quiet_since = time.monotonic()
        while self.members and not all(
            number in self.paused or self.at.get(number, -1) >= high for number, high in highs.items()
        ):
            if self._poll_all():
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > QUIET:
                break
        records, self._arrived = self._arrived, {}
        lost, self._lost_range = sorted(self._lost_range), set()
        ends = {number: at for number, at in sorted(self.at.items()) if number not in self.paused}
        return Drained({number: records[number] for number in sorted(records)}, lost, ends)

    def _poll_all(self) -> bool:
        """Whether anything came."""
        came = [self._poll(member) for member in self.members.values()]
        return any(came)

    def _poll(self, member: ContractMember) -> bool:
        polled = member.poll(500, 0.02)
        self._take(polled)
        for at in polled.out_of_range:
            self._lost_range.add(at.partition)
            self.at[at.partition] = -1
            member.seek(at, BEGINNING)
        return bool(polled.batches or polled.out_of_range or polled.reached)

    def _take(self, polled: PollResult) -> None:
        for batch in polled.batches:
            came = self._arrived.setdefault(batch.partition.partition, [])
            came.extend(map(shown, batch.records))
            self.at[batch.partition.partition] = batch.records[-1].offset() + 1
        for at, offset in polled.reached.items():
            self.at[at.partition] = max(self.at.get(at.partition, 0), offset)

    def pause(self, partition: int) -> None:
        self.owner(partition).pause([TopicPartition(self.topic, partition)])
        self.paused.add(partition)

    def resume(self, partition: int) -> None:
        self.owner(partition).resume([TopicPartition(self.topic, partition)])
        self.paused.discard(partition)

    def seek(self, partition: int, offset: int) -> None:
        self.owner(partition).seek(TopicPartition(self.topic, partition), offset)
        self.at[partition] = -1

    def commit(self, partition: int, offset: int, metadata: str, waits: bool) -> str | None:
        ended: list[BrokerError | None] = []

        def try_once() -> bool:
            """Whether it has an end other than that the group is in a rebalance: FENCED if the next generation has
            begun, and the member has not seen it."""
            ended[:] = self._committed(partition, CommittedOffset(offset, metadata), waits)
            return ended[0] is None or not (ended[0].retriable or ended[0].fault is Fault.FENCED)

        self.bench.until(try_once, self._poll_all)
        return _fault(ended[0])

    def _committed(self, partition: int, offset: CommittedOffset, waits: bool) -> list[BrokerError | None]:
        member, at = self.owner(partition), TopicPartition(self.topic, partition)
        ends: list[BrokerError | None] = []
        if waits:
            try:
                member.commit_now({at: offset})
            except BrokerError as error:
                return [error]
            return [None]
        member.commit({at: offset}, ends.append)
        self.bench.until(lambda: ends, self._poll_all)
        return ends

    def commit_all(self) -> None:
        """What was consumed, as an owner does before it gives partitions up."""
        for number in range(self.partitions):
            if self.at.get(number, -1) >= 0:
                assert self.commit(number, self.at[number], "", waits=True) is None

    def member_committed(self) -> list[tuple[int, CommittedOffset | None]]:
        member = next(iter(self.members.values()))
        asked = [TopicPartition(self.topic, number) for number in range(self.partitions)]
        return sorted((at.partition, found) for at, found in member.committed(asked).items())

    # -- the cluster

    def grow(self) -> list[int]:
        assert self.bench.grow is not None
        self.partitions += 1
        self.bench.grow(self.topic, self.partitions)
        self.await_partitions()
        return self.settle()


def _place(record: Record) -> Shown:
    return record.partition(), record.offset(), record.key(), record.value()


def _fault(error: BrokerError | None) -> str | None:
    return None if error is None else error.fault.name

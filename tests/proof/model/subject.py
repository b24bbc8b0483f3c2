"""One cluster through one adapter: performs concrete steps and returns what the ports returned, in plain values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from flux.core.errors import BrokerError
from flux.core.ports import BEGINNING, CommittedOffset, NewTopic, PollResult, ProducerRecord, Record, TopicPartition
from flux.testing.contract import Bench
from flux.testing.contract.members import ContractMember
from proof.model.steps import Draft

QUIET = 5.0
"""Seconds without news after which a drain ends although an end was not reported."""

STABLE = 0.4
"""Seconds for which an assignment must stay as it is to count as the group's."""
LATE = -1
"""The number of a member that is late."""

Shown = tuple[Any, ...]


@attrs.frozen
class Drained:
    records: dict[int, list[Shown]]
    """By partition, as they came."""
    out_of_range: list[int]
    ends: dict[int, int]
    """Where each partition that is consumed was read to."""


class Subject:
    def __init__(self, bench: Bench, partitions: int) -> None:
        self.bench = bench
        self.topic = bench.topic(partitions)
        self.group = bench.name()
        self.partitions = partitions
        self.members: dict[int, ContractMember] = {}
        self.paused: set[int] = set()
        self.at: dict[int, int] = {}
        """Where consumption of each owned partition is."""
        self._arrived: dict[int, list[Shown]] = {}
        self._lost_range: set[int] = set()
        self._producer = bench.producer()

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

    def transact(self, values: tuple[bytes, ...], commits: bool) -> None:
        assert self.bench.transact is not None
        self.bench.transact(self.topic, values, commits)

    # -- the group

    def join(self, number: int) -> list[int]:
        self.members[number] = self.bench.member(self.topic, self.group, start=None)
        return self.settle()

    def leave(self, number: int) -> list[int]:
        self.members.pop(number).close()
        return self.settle()

    def settle(self) -> list[int]:
        """Polls until the members share the partitions evenly; how many each has, in order of the counts."""
        if not self.members:
            self.at.clear()
            self.paused.clear()
            return []

        def shared() -> bool:
            counts = self._counts()
            return sum(counts) == self.partitions and counts[-1] - counts[0] <= 1

        def stays() -> bool:
            """A rebalance has two rounds, and a member that leaves in the second waits for those that do not poll."""
            until = time.monotonic() + STABLE
            while shared():
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
        refused = _raised(lambda: stale.commit_now(theirs))
        stayed = before == self.committed()
        stale.close()
        return refused is not None, stayed, self.settle()

    # -- consuming

    def drain(self) -> Drained:
        """Polls until each partition that is consumed was read to its end. One that is out of range is read from its
        beginning again."""
        highs = {number: marks.high for number, marks in self._marks().items()}
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
            """Whether it has an end other than that the group is in a rebalance."""
            ended[:] = self._committed(partition, CommittedOffset(offset, metadata), waits)
            return ended[0] is None or not ended[0].retriable

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

    def commit_from_outside(self, partition: int, offset: int) -> str | None:
        offsets = {partition: CommittedOffset(offset)}
        return _raised(
            lambda: self.bench.admin.set_committed_offsets(self.group, self.topic, offsets, self.bench.seconds)
        )

    def delete_records(self, partition: int, offset: int) -> str | None:
        return _raised(lambda: self.bench.admin.delete_records(self.topic, {partition: offset}, self.bench.seconds))

    def grow(self) -> list[int]:
        assert self.bench.grow is not None
        self.partitions += 1
        self.bench.grow(self.topic, self.partitions)
        self._there()
        return self.settle()

    def recreate(self, partitions: int) -> None:
        admin, seconds = self.bench.admin, self.bench.seconds
        admin.delete_topics([self.topic], seconds)
        self.bench.until(lambda: admin.topics([self.topic], seconds)[self.topic] is None)
        self.partitions = partitions
        self.bench.until(self._made)
        self._there()
        # a cluster forgets a deleted topic's committed offsets a moment later
        self.bench.until(lambda: not self.committed())

    def _made(self) -> bool:
        admin, seconds = self.bench.admin, self.bench.seconds
        try:
            admin.create_topics([NewTopic(self.topic, self.partitions, 1)], seconds)
        except BrokerError:  # its deletion is not over
            return False
        found = admin.topics([self.topic], seconds)[self.topic]
        return found is not None

    def _there(self) -> None:
        admin, seconds = self.bench.admin, self.bench.seconds

        def known() -> bool:
            found = admin.topics([self.topic], seconds)[self.topic]
            return found is not None and found.partitions == self.partitions

        self.bench.until(known)
        self._producer = self.bench.producer()  # see the freedom "metadata age"
        self.bench.until(lambda: _partitions(self._producer, self.topic, seconds) == self.partitions)

    def _marks(self) -> dict[int, Any]:
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
        return {number: (marks.low, marks.high) for number, marks in self._marks().items()}

    def committed(self) -> dict[int, CommittedOffset]:
        found = self.bench.admin.committed_offsets(self.group, self.topic, self.bench.seconds)
        return dict(sorted(found.items()))

    def look(self, timestamp: int) -> Shown:
        admin, seconds = self.bench.admin, self.bench.seconds
        shares = sorted(len(member.partitions) for member in admin.members(self.group, seconds))
        return (
            self.watermarks(),
            self.committed(),
            shares,
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


def shown(record: Record) -> Shown:
    kind, at = record.timestamp()
    return (record.offset(), record.key(), record.value(), tuple(record.headers() or ()), kind, at)


def _place(record: Record) -> Shown:
    return record.partition(), record.offset(), record.key(), record.value()


def _fault(error: BrokerError | None) -> str | None:
    return None if error is None else error.fault.name


def _raised(call: Callable[[], object]) -> str | None:
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

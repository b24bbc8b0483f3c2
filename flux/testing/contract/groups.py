"""Members of one group: assignments, notifications, and what a former owner may still do."""

from __future__ import annotations

from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, ProducerRecord
from flux.testing.contract.bench import Bench, Contract, at, fault_of, records_of
from flux.testing.contract.members import ContractMember

CONTRACT = Contract()


def _numbered(count: int, partitions: int) -> list[ProducerRecord]:
    return [ProducerRecord(b"%d" % i, None, (), i % partitions) for i in range(count)]


@CONTRACT
def members_share_a_topic_and_take_over_where_the_group_is(bench: Bench) -> None:
    topic, group = bench.topic(4), bench.name()
    everything = set(at(topic, 0, 1, 2, 3))
    bench.written(topic, _numbered(40, 4))
    first = bench.member(topic, group, start=None)
    first.events.commits_when_revoked = True
    bench.take(first, 40)
    assert first.events.owned == everything
    second = bench.member(topic, group, start=None)
    second.events.commits_when_revoked = True
    # What moves is committed inside `revoked`, so nothing comes twice.
    moved = bench.polled([first, second], lambda _: len(first.events.owned) == len(second.events.owned) == 2)
    assert records_of(moved) == [], "a committed record came again"
    assert first.events.owned | second.events.owned == everything
    bench.written(topic, _numbered(40, 4))
    got = records_of(bench.polled([first, second], lambda whole: len(records_of(whole)) >= 40))
    assert sorted((r.partition(), r.offset()) for r in got) == [(p, 10 + i) for p in range(4) for i in range(10)]
    second.close()
    assert second.events.owned == set()
    assert second.events.calls[-1][0] == "revoked"
    back = bench.polled([first], lambda _: first.events.owned == everything)
    assert records_of(back) == [], "a committed record came again"
    first.close()
    ended = bench.admin.committed_offsets(group, topic, bench.seconds)
    assert {number: committed.offset for number, committed in ended.items()} == dict.fromkeys(range(4), 20)


@CONTRACT
def every_partition_has_one_owner_whoever_joins_and_leaves(bench: Bench) -> None:
    topic, group = bench.topic(6), bench.name()
    members: list[ContractMember] = [bench.member(topic, group, start=None) for _ in range(3)]
    for member in members:
        member.events.commits_when_revoked = True
    seen: list[tuple[int, int]] = []

    def work(expected: int) -> None:
        whole = bench.polled(members, lambda whole: len(records_of(whole)) >= expected)
        seen.extend((r.partition(), r.offset()) for r in records_of(whole))

    for _ in range(3):
        bench.written(topic, _numbered(60, 6))
        work(60)
        if len(members) > 1:
            members.pop().close()
        else:
            members.append(bench.member(topic, group, start=None))
            members[-1].events.commits_when_revoked = True
    assert sorted(seen) == [(p, i) for p in range(6) for i in range(30)]
    owned = [p for member in members for p in member.events.owned]
    assert len(owned) == len(set(owned))


@CONTRACT
def a_partition_that_comes_back_starts_unpaused(bench: Bench) -> None:
    topic, group = bench.topic(2), bench.name()
    first = bench.member(topic, group, start=None)
    bench.join(first)
    first.pause(at(topic, 0, 1))
    second = bench.member(topic, group, start=None)
    bench.polled([first, second], lambda _: len(first.events.owned) == len(second.events.owned) == 1)
    [moved] = second.events.owned
    second.close()
    bench.polled([first], lambda _: len(first.events.owned) == 2)
    bench.written(topic, [ProducerRecord(b"x", None, (), moved.partition)])
    assert [r.partition() for r in bench.take(first, 1)] == [moved.partition]


@CONTRACT
def a_member_that_closes_is_notified_once(bench: Bench) -> None:
    topic = bench.topic(2)
    member = bench.member(topic)
    bench.join(member)
    member.close()
    member.close()
    assert [what for what, partitions in member.events.calls if partitions][-1:] == ["revoked"]
    assert member.events.owned == set()
    assert isinstance(fault_of(lambda: member.poll(1, 0.1)), Fault)
    assert isinstance(fault_of(lambda: member.commit_now({p: CommittedOffset(0) for p in at(topic, 0)})), Fault)


@CONTRACT
def a_member_that_never_polled_can_be_closed(bench: Bench) -> None:
    member = bench.member(bench.topic())
    member.close()
    assert member.events.calls == []


@CONTRACT
def a_member_for_which_there_is_no_partition_is_assigned_none(bench: Bench) -> None:
    topic, group = bench.topic(), bench.name()
    members = [bench.member(topic, group)]
    bench.join(*members)
    members.append(bench.member(topic, group))

    def spare(member: ContractMember) -> bool:
        return not member.events.owned and member.events.calls[-1:] == [("assigned", [])]

    bench.polled(members, lambda _: any(map(spare, members)))


@CONTRACT
def a_member_that_stops_polling_loses_its_partitions(bench: Bench) -> None:
    """Only with a bench that has an `impatient` adapter."""
    if bench.impatient is None:
        return
    topic, group = bench.topic(2), bench.name()
    bench.written(topic, _numbered(4, 2))
    stuck = bench.member(topic, group, start=None, adapter=bench.impatient)
    bench.take(stuck, 4)
    other = bench.member(topic, group, start=None)
    stuck.idle(0.01)
    # The other member gets everything, and starts at the beginning: nothing was committed.
    bench.polled([other], lambda _: len(other.events.owned) == 2)
    answers: list[BrokerError | None] = []
    error = _commit_fault(stuck, dict.fromkeys(at(topic, 0, 1), CommittedOffset(2)))
    stuck.commit(dict.fromkeys(at(topic, 0), CommittedOffset(2)), answers.append)
    assert error in (None, Fault.FENCED, Fault.UNAVAILABLE)
    bench.until(lambda: "lost" in [what for what, _ in stuck.events.calls], lambda: (stuck.poll(), other.poll()))
    assert bench.admin.committed_offsets(group, topic, bench.seconds) == {}, "a former member's commit was taken"
    bench.polled([stuck, other], lambda _: len(stuck.events.owned) == len(other.events.owned) == 1)


def _commit_fault(member: ContractMember, offsets: dict[object, CommittedOffset]) -> Fault | None:
    try:
        member.commit_now(offsets)  # type: ignore[arg-type]
    except BrokerError as error:
        return error.fault
    return None


@CONTRACT
def an_added_partition_is_assigned_and_read_from_its_beginning(bench: Bench) -> None:
    """Only with a bench that can `grow` topics."""
    if bench.grow is None:
        return
    topic, group = bench.topic(), bench.name()
    bench.written(topic, [ProducerRecord(b"x")] * 3)
    member = bench.member(topic, group, start=None)
    member.events.commits_when_revoked = True
    bench.take(member, 3)
    bench.grow(topic, 3)
    bench.until(lambda: (info := bench.admin.topics([topic], bench.seconds)[topic]) and info.partitions == 3)
    producer = bench.producer()
    bench.until(lambda: producer.partitions(topic, bench.seconds) == 3)
    errors: list[BrokerError | None] = []
    for number in (0, 1, 2):
        producer.write(topic, [ProducerRecord(b"%d" % number, None, (), number)], lambda error, _: errors.append(error))
    assert producer.flush(bench.seconds) == 0
    assert errors == [None] * 3
    whole = bench.polled([member], lambda whole: len(records_of(whole)) >= 3)
    assert sorted((r.partition(), r.offset()) for r in records_of(whole)) == [(0, 3), (1, 0), (2, 0)]
    assert member.events.owned == set(at(topic, 0, 1, 2))
    bench.nothing_comes(member)


@CONTRACT
def a_producer_writes_to_a_partition_that_was_added(bench: Bench) -> None:
    """Only with a bench that can `grow` topics."""
    if bench.grow is None:
        return
    topic = bench.topic()
    producer = bench.producer()
    errors: list[BrokerError | None] = []

    def write(number: int) -> None:
        producer.write(topic, [ProducerRecord(b"x", None, (), number)], lambda error, _: errors.append(error))
        assert producer.flush(bench.seconds) == 0

    write(0)
    bench.grow(topic, 3)
    bench.until(lambda: (info := bench.admin.topics([topic], bench.seconds)[topic]) and info.partitions == 3)
    assert producer.partitions(topic, bench.seconds) == 3
    write(2)
    assert errors == [None, None]


@CONTRACT
def a_topic_that_does_not_exist_is_named(bench: Bench) -> None:
    topic = bench.name()
    member = bench.member(topic)

    def refused() -> BrokerError | None:
        try:
            member.poll(1, 0.1)
        except BrokerError as error:
            return error
        return None

    errors: list[BrokerError | None] = [None]
    bench.until(lambda: errors[-1], lambda: errors.append(refused()))
    assert errors[-1] is not None
    assert errors[-1].fault is Fault.UNKNOWN_TOPIC, errors[-1]
    assert topic in str(errors[-1])
    member.close()

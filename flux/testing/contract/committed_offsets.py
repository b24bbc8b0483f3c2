"""Fetch positions of consumers, and committed offsets of groups."""

from __future__ import annotations

from flux.core.errors import BrokerError, Fault
from flux.core.ports import BEGINNING, END, CommittedOffset, ProducerRecord, TopicPartition
from flux.testing.contract.bench import Bench, Contract, at, brings_nothing, fault_of, records_of
from flux.testing.contract.members import ContractMember

CONTRACT = Contract()


def _read(bench: Bench, count: int) -> tuple[TopicPartition, ContractMember]:
    """A partition with that many records, and a member that has read them."""
    topic = bench.topic()
    bench.written(topic, [ProducerRecord(b"x")] * count)
    member = bench.member(topic)
    bench.take(member, count)
    return TopicPartition(topic, 0), member


@CONTRACT
def a_committed_offset_and_its_metadata_are_read_back(bench: Bench) -> None:
    topic, group = bench.topic(), bench.name()
    [zero] = at(topic, 0)
    bench.written(topic, [ProducerRecord(b"x")] * 3)
    member = bench.member(topic, group)
    bench.take(member, 3)
    assert member.committed([zero]) == {zero: None}
    for committed in (CommittedOffset(2, "flux-1:äß7~"), CommittedOffset(2, "changed"), CommittedOffset(3)):
        member.commit_now({zero: committed})
        assert member.committed([zero]) == {zero: committed}
        assert bench.admin.committed_offsets(group, topic, bench.seconds) == {0: committed}


@CONTRACT
def the_next_member_starts_at_the_committed_offset(bench: Bench) -> None:
    topic, group = bench.topic(), bench.name()
    bench.written(topic, [ProducerRecord(b"x")] * 5)
    first = bench.member(topic, group)
    bench.take(first, 5)
    first.commit_now({TopicPartition(topic, 0): CommittedOffset(2, "m")})
    first.close()
    second = bench.member(topic, group, start=None)
    assert [r.offset() for r in bench.take(second, 3)] == [2, 3, 4]


@CONTRACT
def groups_are_independent(bench: Bench) -> None:
    topic = bench.topic()
    bench.written(topic, [ProducerRecord(b"x")] * 3)
    one, other = bench.member(topic), bench.member(topic, start=None)
    bench.take(one, 3)
    one.commit_now({TopicPartition(topic, 0): CommittedOffset(3)})
    assert [r.offset() for r in bench.take(other, 3)] == [0, 1, 2]
    assert other.committed(at(topic, 0)) == {TopicPartition(topic, 0): None}


@CONTRACT
def a_started_commit_is_answered_once(bench: Bench) -> None:
    zero, member = _read(bench, 3)
    answers: list[tuple[str, BrokerError | None]] = []
    member.commit({zero: CommittedOffset(1, "a")}, lambda error: answers.append(("first", error)))
    member.commit({zero: CommittedOffset(2, "b")}, lambda error: answers.append(("second", error)))
    bench.polled([member], lambda _: len(answers) >= 2)
    assert answers == [("first", None), ("second", None)]
    assert member.committed([zero]) == {zero: CommittedOffset(2, "b")}
    member.commit({zero: CommittedOffset(3, "c")}, lambda error: answers.append(("third", error)))
    member.close()
    assert [name for name, _ in answers] == ["first", "second", "third"]


@CONTRACT
def metadata_that_is_too_long_is_refused_as_such(bench: Bench) -> None:
    zero, member = _read(bench, 1)
    member.commit_now({zero: CommittedOffset(0, "x" * 4095)})
    assert fault_of(lambda: member.commit_now({zero: CommittedOffset(1, "x" * 5000)})) is Fault.METADATA
    answers: list[BrokerError | None] = []
    member.commit({zero: CommittedOffset(1, "x" * 5000)}, answers.append)
    bench.polled([member], lambda _: answers)
    assert [error and error.fault for error in answers] == [Fault.METADATA]
    assert member.committed([zero]) == {zero: CommittedOffset(0, "x" * 4095)}


@CONTRACT
def a_partition_starts_where_the_listener_says(bench: Bench) -> None:
    topic = bench.topic()
    bench.written(topic, [ProducerRecord(b"x")] * 10)
    assert [r.offset() for r in bench.take(bench.member(topic, start=7), 3)] == [7, 8, 9]
    assert len(bench.take(bench.member(topic, start=BEGINNING), 10)) == 10
    late = bench.member(topic, start=END)
    bench.join(late)
    bench.nothing_comes(late)
    bench.written(topic, [ProducerRecord(b"later")])
    assert [r.offset() for r in bench.take(late, 1)] == [10]


@CONTRACT
def a_seek_takes_effect_at_once(bench: Bench) -> None:
    topic = bench.topic()
    [zero] = at(topic, 0)
    bench.written(topic, [ProducerRecord(b"x")] * 1000)
    member = bench.member(topic)
    bench.until(lambda: member.poll(3).batches)
    for offset, first in ((500, 500), (3, 3), (BEGINNING, 0), (999, 999)):
        member.seek(zero, offset)
        [record, *_] = bench.take(member, 1)
        assert record.offset() == first, (offset, record.offset())
    member.seek(zero, END)
    bench.nothing_comes(member)
    bench.written(topic, [ProducerRecord(b"later")])
    assert [r.offset() for r in bench.take(member, 1)] == [1000]


@CONTRACT
def a_fetch_position_out_of_range_is_reported_until_the_seek(bench: Bench) -> None:
    topic = bench.topic(2)
    zero, one = at(topic, 0, 1)
    bench.written(topic, [ProducerRecord(b"%d" % i, None, (), i % 2) for i in range(20)])
    member = bench.member(topic)
    bench.take(member, 20)
    member.seek(zero, 500)
    reached: list[int] = []
    out_of_range: set[TopicPartition] = set()

    def poll() -> None:
        polled = member.poll(10, 0.1)
        assert not polled.batches, polled
        out_of_range.update(polled.out_of_range)
        reached.extend(polled.reached.values())

    bench.until(lambda: out_of_range, poll)
    assert out_of_range == {zero}
    assert [offset for offset in reached if offset > 10] == [], "a position beyond the end was reported as reached"
    bench.written(topic, [ProducerRecord(b"0", None, (), 0), ProducerRecord(b"1", None, (), 1)])
    assert {r.partition() for r in bench.take(member, 1)} == {1}, "another partition goes on"
    member.seek(zero, 8)
    assert [r.offset() for r in bench.take(member, 3)] == [8, 9, 10]
    member.seek(one, BEGINNING)
    assert len(bench.take(member, 11)) == 11


@CONTRACT
def a_paused_partition_brings_nothing_and_loses_nothing(bench: Bench) -> None:
    topic = bench.topic(2)
    zero, one, foreign = at(topic, 0, 1, 77)
    bench.written(topic, [ProducerRecord(b"%d" % i, None, (), i % 2) for i in range(2000)])
    member = bench.member(topic)
    first = bench.polled([member], lambda whole: records_of(whole))
    member.pause([zero, foreign])
    got = [*records_of(first), *records_of(bench.polled([member], lambda whole: len(records_of(whole)) >= 0))]
    bench.until(
        lambda: sum(r.partition() == 1 for r in got) >= 1000, lambda: got.extend(records_of(member.poll(500, 0.05)))
    )
    so_far = [r.offset() for r in got if r.partition() == 0]
    bench.nothing_comes(member)
    member.pause([one])
    member.resume([zero, foreign])
    rest = bench.take(member, 1000 - len(so_far)) if len(so_far) < 1000 else []
    assert so_far + [r.offset() for r in rest if r.partition() == 0] == list(range(1000))
    assert brings_nothing(member.poll(10, 0.1))


@CONTRACT
def a_seek_of_a_paused_partition_leaves_it_paused(bench: Bench) -> None:
    zero, member = _read(bench, 10)
    member.pause([zero])
    member.seek(zero, 4)
    bench.nothing_comes(member)
    member.resume([zero])
    assert [r.offset() for r in bench.take(member, 6)] == [4, 5, 6, 7, 8, 9]


@CONTRACT
def an_unassigned_partition_cannot_be_sought(bench: Bench) -> None:
    topic = bench.topic()
    member = bench.member(topic)
    bench.join(member)
    assert isinstance(fault_of(lambda: member.seek(TopicPartition(topic, 5), 0)), Fault)

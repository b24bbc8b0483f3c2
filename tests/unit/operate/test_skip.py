"""Skipping: first the copy, then the committed offset, and nothing while the group has members."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.adapters.memory.group import Member
from flux.core import flux_headers
from flux.core.engine.offset_tracker import OffsetTracker, read_metadata
from flux.core.errors import BrokerError, ConfigurationError, Fault, FluxError
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition
from flux.operate.dlq.exchange import write_lines
from flux.operate.skip import SKIPPED_BY, SkipPlan, plan_skip, skip, stage_of
from flux.operate.status.progress import Progress, committed_after
from unit.support.operate_support import DEAD, MAIN, RETRY, OperateKit, header

P0 = TopicPartition(MAIN, 0)


@pytest.fixture
def yard() -> OperateKit:
    yard = OperateKit()
    yard.kit.write(
        *(ProducerRecord(b"v%d" % n, b"k%d" % n, [("own", b"x"), ("flux-due", b"9")]) for n in range(5)), topic=MAIN
    )
    return yard


def plan_of(yard: OperateKit, offset: int, stage: int = 0, partition: int = 0) -> SkipPlan:
    chosen = stage_of(yard.policy, stage, yard.admin)
    return plan_skip(yard.adapter, yard.admin, yard.policy, chosen, partition, offset)


def skipped(yard: OperateKit, offset: int, stage: int = 0) -> CommittedOffset:
    return skip(
        plan_of(yard, offset, stage), yard.adapter, yard.admin, "ada@ops", "no such customer", yard.system
    ).committed


def test_the_record_becomes_a_dead_letter_with_who_and_why(yard: OperateKit) -> None:
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(2))
    skipped(yard, 2)
    [copy] = yard.broker.records(DEAD)
    assert (copy.key(), copy.value()) == (b"k2", b"v2")
    assert [pair for pair in copy.headers() or () if not pair[0].startswith("flux-")] == [("own", b"x")]
    assert header(copy, SKIPPED_BY) == "ada@ops"
    assert header(copy, flux_headers.REASON) == "skipped"
    assert header(copy, flux_headers.ERROR_MESSAGE) == "no such customer"
    assert (header(copy, flux_headers.ORIGIN_TOPIC), header(copy, flux_headers.ORIGIN_OFFSET)) == (MAIN, "2")
    assert flux_headers.DUE not in dict(copy.headers() or ())


def test_the_group_continues_behind_the_record_at_its_committed_offset(yard: OperateKit) -> None:
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(2))
    assert skipped(yard, 2) == CommittedOffset(3)
    assert yard.admin.committed_offsets("billing", MAIN, 1) == {0: CommittedOffset(3)}


def test_what_was_done_behind_it_stays_done(yard: OperateKit) -> None:
    offset_tracker = OffsetTracker(2, [(3, 4)])
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(2, offset_tracker.metadata()))
    assert skipped(yard, 2) == CommittedOffset(4)


def test_a_record_above_the_committed_offset_is_noted_in_the_metadata(yard: OperateKit) -> None:
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(1))
    position = skipped(yard, 3)
    assert position.offset == 1
    assert read_metadata(1, position.metadata) == [(3, 4)]


def test_a_group_that_has_never_committed_continues_behind_its_first_record(yard: OperateKit) -> None:
    assert skipped(yard, 0) == CommittedOffset(1)


def test_a_record_of_a_retry_stage_keeps_its_origin_and_its_attempts(yard: OperateKit) -> None:
    parsed = {
        flux_headers.ATTEMPTS: 1,
        flux_headers.ORIGIN_TOPIC: MAIN,
        flux_headers.ORIGIN_PARTITION: 0,
        flux_headers.ORIGIN_OFFSET: 4,
        flux_headers.FIRST_FAILED_AT: 5,
    }
    headers = [(name, str(value).encode()) for name, value in parsed.items()]
    yard.kit.write(ProducerRecord(b"v", b"k", headers), topic=RETRY)
    skipped(yard, 0, stage=1)
    [copy] = yard.broker.records(DEAD)
    assert (header(copy, flux_headers.ORIGIN_OFFSET), header(copy, flux_headers.FIRST_FAILED_AT)) == ("4", "5")
    assert yard.admin.committed_offsets("billing-1", RETRY, 1) == {0: CommittedOffset(1)}


def test_it_is_refused_while_the_group_has_members_and_nothing_is_written(yard: OperateKit) -> None:
    consumer, _ = yard.kit.consumer(MAIN, "billing")
    consumer.poll(1, 0.1)
    with pytest.raises(FluxError, match=r"has 1 member.*stop the workers of stage 0") as refused:
        plan_of(yard, 0)
    assert "\n" not in str(refused.value)
    assert yard.broker.records(DEAD) == []


def test_members_that_join_after_the_copy_leave_the_record_unfinished(yard: OperateKit) -> None:
    plan = plan_of(yard, 0)
    member = Member(300.0, yard.system.now())

    def join(topic: str, partition: int, record: ProducerRecord) -> None:
        yard.adapter._cluster.group("billing", MAIN).join(member)

    yard.broker.fail_writes(join)
    with pytest.raises(FluxError, match=r"the copy is in .*is not skipped.*has members"):
        skip(plan, yard.adapter, yard.admin, "a", "b", yard.system)
    assert yard.admin.committed_offsets("billing", MAIN, 1) == {0: CommittedOffset(0)}
    assert len(yard.broker.records(DEAD)) == 1


def test_what_would_refuse_the_commit_refuses_before_anything_is_written(yard: OperateKit) -> None:
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(1))
    plan = plan_of(yard, 1)
    consumer, _ = yard.kit.consumer(MAIN, "billing")
    consumer.poll(1, 0.1)
    with pytest.raises(FluxError, match="group billing has members: stop the workers of stage 0"):
        skip(plan, yard.adapter, yard.admin, "a", "b", yard.system)
    consumer.close()
    yard.broker.fail_commits(lambda group, at, position: BrokerError("no permission", Fault.DENIED))
    with pytest.raises(BrokerError, match="no permission"):
        skip(plan, yard.adapter, yard.admin, "a", "b", yard.system)
    assert yard.broker.records(DEAD) == []


def test_what_was_committed_meanwhile_is_not_taken_back(yard: OperateKit) -> None:
    plan = plan_of(yard, 1)

    def commit_first(topic: str, partition: int, record: ProducerRecord) -> None:
        yard.adapter._cluster.group("billing", MAIN).committed[0] = CommittedOffset(4)

    yard.broker.fail_writes(commit_first)
    assert skip(plan, yard.adapter, yard.admin, "a", "b", yard.system).committed == CommittedOffset(4)


def test_without_the_copys_acknowledgement_the_committed_offset_stays(yard: OperateKit) -> None:
    lost = BrokerError("not enough replicas", Fault.UNAVAILABLE)
    yard.broker.fail_writes(lambda topic, partition, record: lost, stored=True)
    with pytest.raises(BrokerError, match=r"nothing was skipped.*did not acknowledge the copy.*: not enough replicas"):
        skipped(yard, 0)
    assert yard.admin.committed_offsets("billing", MAIN, 1) == {0: CommittedOffset(0)}


def test_a_refused_commit_is_reported_with_where_the_copy_is(yard: OperateKit) -> None:
    denied = BrokerError("no permission", Fault.DENIED)
    yard.broker.fail_commits(lambda group, at, position: denied if position.offset else None)
    with pytest.raises(FluxError, match=f"the copy is in {DEAD}.*no permission"):
        skipped(yard, 0)


@pytest.mark.parametrize(
    ("offset", "partition", "says"),
    [
        (1, 0, "is done already: it blocks nothing in group billing"),
        (3, 0, "is done"),
        (9, 0, "there is no record orders.0.@9: the partition holds 0 to 4"),
        (0, 7, "has no partition 7"),
    ],
)
def test_what_is_not_there_or_done_is_refused(yard: OperateKit, offset: int, partition: int, says: str) -> None:
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(2, OffsetTracker(2, [(3, 4)]).metadata()))
    with pytest.raises(FluxError, match=says):
        plan_of(yard, offset, partition=partition)


def test_an_offset_in_a_gap_is_no_record(yard: OperateKit) -> None:
    yard.broker.skip_offsets(P0, 2)
    yard.kit.write(ProducerRecord(b"after"), topic=MAIN)
    with pytest.raises(FluxError, match="there is no record"):
        plan_of(yard, 5)


def test_stages_that_hold_nothing_are_refused(yard: OperateKit) -> None:
    with pytest.raises(ConfigurationError, match="no stage 3: 0 is the main topic, 1 to 2"):
        stage_of(yard.policy, 3, yard.admin)
    yard.broker.create_topic("orders-billing-try-3")
    assert stage_of(yard.policy, 3, yard.admin).topic == "orders-billing-try-3"


def test_a_group_that_starts_at_the_end_is_blocked_by_a_partition_that_came_later(yard: OperateKit) -> None:
    yard.broker.grow_topic(MAIN, 2)
    yard.policy = attrs.evolve(yard.policy, start_from="latest")
    with pytest.raises(FluxError, match="nothing is blocked"):
        plan_of(yard, 0)
    yard.broker.set_committed_offset("billing", TopicPartition(MAIN, 1), CommittedOffset(0))
    assert plan_of(yard, 0).stored == CommittedOffset(0)


def test_a_string_with_no_room_is_refused_before_anything_is_written() -> None:
    stored = CommittedOffset(0, OffsetTracker(0, [(n, n + 1) for n in range(2, 60, 2)]).metadata())
    assert committed_after(stored, 101, 0, 24) is None
    fits = committed_after(stored, 101, 0, 4095)
    assert fits is not None
    assert Progress.of(fits).has(101)
    assert all(Progress.of(fits).has(n) for n in range(2, 60, 2))


spans = st.tuples(st.integers(0, 60), st.integers(1, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.integers(0, 40), st.lists(spans, max_size=8), st.integers(0, 70), st.integers(0, 50), st.integers(0, 60))
def test_passing_adds_one_record_and_takes_nothing_back(
    position: int, done: list[tuple[int, int]], offset: int, low: int, room: int
) -> None:
    offset_tracker = OffsetTracker(position, done)
    stored = CommittedOffset(offset_tracker.committable, offset_tracker.metadata())
    offset = max(offset, low)
    passed = committed_after(stored, offset, low, room)
    if passed is None:
        assert room < 60
        return
    before, after = Progress.of(stored), Progress.of(passed)
    assert len(passed.metadata) <= room
    for each in range(low, 80):
        assert after.has(each) == (before.has(each) or each == offset)


def test_foreign_metadata_is_ignored() -> None:
    assert committed_after(CommittedOffset(4, "somebody else's"), 4, 0, 4095) == CommittedOffset(5)
    assert Progress.of(CommittedOffset(4, "somebody else's")) == Progress(4)


# -- what no topic takes


def test_what_the_dead_letters_refuse_is_kept_whole_and_then_passed(yard: OperateKit) -> None:
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(2))
    yard.broker.fail_writes(lambda topic, *_: BrokerError("too large", Fault.TOO_LARGE) if topic == DEAD else None)
    kept: list[str] = []

    def keep(line: str) -> None:
        assert yard.admin.committed_offsets("billing", MAIN, 1) == {0: CommittedOffset(2)}, "passed before it is kept"
        kept.append(line)

    done = skip(plan_of(yard, 2), yard.adapter, yard.admin, "ada", "40 MB", yard.system, receipt=keep)
    assert (done.committed, "too large" in done.refused) == (CommittedOffset(3), True)
    yard.broker.fail_writes(None)
    assert write_lines(yard.adapter, yard.admin, DEAD, [line.encode() for line in kept]) == 1
    [dead_letter] = yard.broker.records(DEAD)
    assert (dead_letter.key(), dead_letter.value(), dict(dead_letter.headers() or ())["own"]) == (b"k2", b"v2", b"x")
    assert (header(dead_letter, flux_headers.REASON), header(dead_letter, flux_headers.ORIGIN_OFFSET)) == (
        "skipped",
        "2",
    )


def test_a_receipt_that_cannot_be_written_leaves_the_record_unfinished(yard: OperateKit) -> None:
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(2))
    yard.broker.fail_writes(lambda *_: BrokerError("too large", Fault.TOO_LARGE))

    def keep(line: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        skip(plan_of(yard, 2), yard.adapter, yard.admin, "ada", "x", yard.system, receipt=keep)
    assert yard.admin.committed_offsets("billing", MAIN, 1) == {0: CommittedOffset(2)}


@pytest.mark.parametrize(
    ("fault", "shown"), [(Fault.TOO_LARGE, "raise max.message.bytes"), (Fault.DENIED, "grant WRITE")]
)
def test_without_a_receipt_the_refusal_says_what_helps(yard: OperateKit, fault: Fault, shown: str) -> None:
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(2))
    yard.broker.fail_writes(lambda *_: BrokerError("no", fault))
    with pytest.raises(BrokerError, match=f"nothing was skipped.*{shown}.*--receipt FILE"):
        skip(plan_of(yard, 2), yard.adapter, yard.admin, "ada", "x", yard.system)
    assert yard.admin.committed_offsets("billing", MAIN, 1) == {0: CommittedOffset(2)}


def test_a_cluster_that_is_unavailable_needs_no_receipt(yard: OperateKit) -> None:
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(2))
    yard.broker.fail_writes(lambda *_: BrokerError("away", Fault.UNAVAILABLE))
    with pytest.raises(BrokerError, match="did not acknowledge"):
        skip(plan_of(yard, 2), yard.adapter, yard.admin, "a", "x", yard.system, receipt=lambda line: pytest.fail(line))

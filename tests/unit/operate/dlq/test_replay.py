"""Replaying dead letters: what is written and committed, however a replay ends."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from flux.core import flux_headers
from flux.core.errors import BrokerError, ConfigurationError, Fault, FluxError
from flux.core.message import Message
from flux.core.ports import CommittedOffset, ConsumerSettings, TopicPartition
from flux.core.stage import Stages
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.replay import Replay
from flux.operate.dlq.replay_plan import Edit, ReplayOptions, check_members, copy_of, plan_replay
from flux.operate.dlq.replay_progress import replay_group
from unit.support.operate_support import (
    DEAD,
    MAIN,
    NOW_MS,
    RETRY,
    OperateKit,
    dead_letter,
    header,
    headers_of,
    only,
    places,
    policy,
)

GROUP = "billing-replay"


def stopping_after(asked: int) -> Callable[[], bool]:
    """True from the so-many-th question on."""
    left = iter(range(asked))
    return lambda: next(left, None) is None


# -- what is written


def test_a_copy_has_the_same_origin_is_due_now_and_has_no_attempts() -> None:
    yard = OperateKit()
    yard.bury({"reason": "rejected"})
    assert yard.replay().replayed == 1
    [copy] = yard.copies()
    assert (copy.key(), copy.value()) == (b"k", b"v")
    assert header(copy, "own") == "header"
    record = Message.of(copy, copy.value(), flux_headers.of_main_topic())
    parsed = flux_headers.read(record.headers, 1, NOW_MS, 1000)
    assert parsed == flux_headers.FluxHeaders(1, 0, NOW_MS, (MAIN, 0, 1000), NOW_MS - 60_000, NOW_MS - 50_000, 1)
    record.place(parsed)
    assert (record.attempt, record.id, record.delivery_id) == (1, "orders/0/1000", "orders/0/1000/1/1")
    assert header(copy, flux_headers.GROUP) == "billing"
    assert (header(copy, flux_headers.REASON), header(copy, flux_headers.ERROR_TYPE)) == ("rejected", "ValueError")
    assert flux_headers.ERROR_TRACE not in dict(copy.headers() or ())


def test_replays_are_counted() -> None:
    yard = OperateKit()
    yard.bury({"replays": 1})
    yard.replay()
    assert header(yard.copies()[0], flux_headers.REPLAYS) == "2"


def test_a_copy_stays_in_the_partition_of_its_dead_letter() -> None:
    yard = OperateKit(3)
    yard.bury({"at": 0}, {"at": 2}, {"at": 2})
    yard.replay()
    assert [copy.partition() for copy in yard.copies()] == [0, 2, 2]


def test_to_main_it_is_a_new_record_in_its_origin_partition() -> None:
    yard = OperateKit(3)
    yard.bury({"at": 2, "replays": 2})
    assert yard.replay(to_main=True).replayed == 1
    [copy] = yard.copies(MAIN)
    assert (copy.partition(), copy.key(), copy.value()) == (2, b"k", b"v")
    assert copy.headers() == [("own", b"header")]
    assert yard.copies() == []


def test_a_dead_letter_without_headers_keeps_what_it_is_as_its_origin() -> None:
    made = copy_of(dead_letter(offset=7), policy().stages[1], "billing", NOW_MS, 1)
    found = dict(made.headers)
    assert (found[flux_headers.ORIGIN_TOPIC], found[flux_headers.ORIGIN_OFFSET], found[flux_headers.REPLAYS]) == (
        DEAD.encode(),
        b"7",
        b"1",
    )
    assert flux_headers.ORIGIN_TIMESTAMP not in found


# -- how far


def test_the_next_replay_takes_what_is_new_only() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    assert yard.replay().replayed == 2
    assert yard.replay().replayed == 0
    yard.bury({})
    assert yard.replay().replayed == 1
    assert yard.broker.committed_offsets(GROUP, DEAD) == {0: CommittedOffset(3)}


def test_a_replay_of_some_leaves_the_rest_to_a_later_one() -> None:
    yard = OperateKit()
    yard.bury({"error": "A"}, {"error": "B"}, {"error": "A"})
    first = yard.replay(criteria=only(error="A"))
    assert (first.replayed, first.unmatched) == (2, 1)
    assert yard.replay(criteria=only(error="A")).replayed == 0
    rest = yard.replay()
    assert (rest.replayed, rest.replayed_before) == (1, 2)
    assert yard.replayed_offsets() == [0, 2, 1]


def test_chosen_ones_are_replayed_once_and_the_others_stay_reachable() -> None:
    yard = OperateKit(2)
    yard.bury({"at": 0}, {"at": 0}, {"at": 0}, {"at": 1})
    first = yard.replay(criteria=places((0, 1), (1, 0)))
    assert (first.replayed, first.unmatched, first.missing) == (2, 0, 0)
    second = yard.replay(criteria=places((0, 1), (0, 2)))
    assert (second.replayed, second.replayed_before) == (1, 1)
    rest = yard.replay()
    assert (rest.replayed, rest.replayed_before) == (1, 3)
    assert yard.replayed_offsets() == [1, 2, 0, 3]
    assert yard.broker.committed_offsets(GROUP, DEAD) == {0: CommittedOffset(3), 1: CommittedOffset(1)}


def test_those_between_chosen_ones_are_not_counted() -> None:
    yard = OperateKit()
    yard.bury({}, {}, {})
    result = yard.replay(criteria=places((0, 0), (0, 2)))
    assert (result.replayed, result.unmatched, result.missing) == (2, 0, 0)


def test_chosen_ones_match_the_other_criteria_too() -> None:
    yard = OperateKit()
    yard.bury({"error": "A"}, {"error": "B"})
    result = yard.replay(criteria=attrs.evolve(places((0, 0), (0, 1)), error="B"))
    assert (result.replayed, result.unmatched) == (1, 1)
    assert yard.replayed_offsets() == [1]


def test_chosen_ones_that_are_not_there_are_counted() -> None:
    yard = OperateKit()
    yard.bury({}, {}, {})
    yard.broker.delete_records(TopicPartition(DEAD, 0), 1)
    result = yard.replay(criteria=places((0, 0), (0, 2)))
    assert (result.replayed, result.missing) == (1, 1)
    for beyond in ((0, 3), (7, 0)):
        with pytest.raises(ConfigurationError, match=r"there is no dead letter at 0:3|no partition 7"):
            yard.replay(criteria=places(beyond))


def test_a_crash_before_chosen_ones_are_marked_replays_them_again() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    yard.broker.fail_commits(lambda *_: BrokerError("killed", Fault.UNAVAILABLE))
    result = yard.replay(criteria=places((0, 1)))
    assert (result.replayed, result.failed) == (1, True)
    assert "the progress was not committed: killed" in result.stopped
    yard.broker.fail_commits(None)
    assert [yard.replay(criteria=places((0, 1))).replayed for _ in range(2)] == [1, 0]


def test_too_many_chosen_ones_are_refused_before_anything_is_written() -> None:
    yard = OperateKit()
    yard.bury({})
    yard.broker.skip_offsets(TopicPartition(DEAD, 0), 60_000)
    yard.bury({})
    with pytest.raises(FluxError, match="20,001 dead letters of a partition"):
        yard.replay(criteria=Filter(only=frozenset((0, offset) for offset in range(0, 40_001, 2))))
    assert yard.copies() == []


def test_a_rejected_one_is_passed_over_by_every_replay_that_does_not_choose_it_again() -> None:
    yard = OperateKit()
    yard.bury({"error": "A"}, {"error": "A"}, {"error": "B"})
    assert yard.reject(only(error="A")).rejected == [(0, 0), (0, 1)]
    assert yard.replay(criteria=places((0, 0))).rejected == 1
    assert yard.replay(criteria=only(error="A")).rejected == 2
    assert yard.replay().rejected == 2
    assert yard.replay(again=True).rejected == 2
    assert yard.replayed_offsets() == [2, 2]
    assert yard.replay(criteria=places((0, 0)), again=True).replayed == 1
    taken = yard.replay(rejected=True)
    assert (taken.replayed, taken.unmatched) == (1, 2)
    assert yard.replayed_offsets() == [2, 2, 0, 1]
    assert yard.broker.committed_offsets(GROUP, DEAD) == {0: CommittedOffset(3)}


def test_an_edited_one_is_written_as_edited_and_marked() -> None:
    yard = OperateKit(3)
    yard.bury({"at": 2}, {"at": 2})
    edit = Edit(b"new", None, (("a", b"1"), ("a", None)))
    assert yard.replay(criteria=places((2, 1)), edits={(2, 1): edit}).replayed == 1
    [copy] = yard.copies()
    assert (copy.key(), copy.value(), copy.partition()) == (b"new", None, 2)
    assert [pair for pair in copy.headers() or () if not pair[0].startswith("flux-")] == [("a", b"1"), ("a", None)]
    assert header(copy, flux_headers.ORIGIN_OFFSET) == "1001"
    assert yard.replay().replayed == 1


def test_to_main_another_key_chooses_the_partition() -> None:
    letter = dead_letter(headers_of(partition=2))
    for key, partition in ((b"k", 2), (b"other", None), (None, None)):
        made = copy_of(letter, policy().stages[0], "billing", NOW_MS, 3, Edit(key, b"v", ()))
        assert (made.key, made.partition) == (key, partition)


def test_what_fails_again_meanwhile_is_left_to_the_next_replay() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    replay = Replay(
        yard.plan(rate=10), yard.adapter, yard.admin, on_progress=lambda count: yard.bury({}), system=yard.system
    )
    assert replay.run().replayed == 2
    assert len(yard.broker.records(DEAD)) > 2
    assert yard.broker.committed_offsets(GROUP, DEAD) == {0: CommittedOffset(2)}


def test_it_continues_where_it_was_interrupted() -> None:
    yard = OperateKit()
    yard.bury(*[{} for _ in range(20)])
    result = yard.replay(should_stop=stopping_after(8))
    assert (result.stopped, result.interrupted, result.failed) == ("interrupted", True, False)
    assert 0 < result.replayed < 20
    assert yard.broker.committed_offsets(GROUP, DEAD) == {0: CommittedOffset(result.replayed)}
    assert yard.replay().replayed == 20 - result.replayed
    assert yard.replayed_offsets() == list(range(20))


def test_a_limit_is_kept_and_the_next_replay_continues_after_it() -> None:
    yard = OperateKit()
    yard.bury(*[{} for _ in range(10)])
    assert [yard.replay(limit=4).replayed for _ in range(4)] == [4, 4, 2, 0]
    assert yard.replayed_offsets() == list(range(10))


def test_a_dry_run_writes_and_commits_nothing() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    assert yard.replay(dry=True).replayed == 2
    assert (yard.copies(), yard.broker.committed_offsets(GROUP, DEAD)) == ([], {})


def test_again_takes_those_that_were_replayed_before_too() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    yard.replay()
    assert yard.replay(again=True).replayed == 2
    assert yard.broker.committed_offsets(GROUP, DEAD) == {0: CommittedOffset(2)}


def test_it_ends_at_a_dead_letter_that_was_replayed_too_often() -> None:
    yard = OperateKit()
    yard.bury({}, {"replays": 3, "text": "still broken"}, {})
    result = yard.replay()
    assert (result.replayed, result.failed) == (1, True)
    assert "0:1" in result.stopped
    assert "still broken" in result.stopped
    assert yard.replay().replayed == 0
    assert yard.replay(max_replays=4).replayed == 2


def test_gaps_and_deleted_dead_letters_are_passed_over() -> None:
    yard = OperateKit()
    yard.bury({}, {}, {})
    yard.broker.skip_offsets(TopicPartition(DEAD, 0), 5)
    yard.broker.delete_records(TopicPartition(DEAD, 0), 1)
    assert yard.replay().replayed == 2
    assert yard.broker.committed_offsets(GROUP, DEAD) == {0: CommittedOffset(8)}


def test_a_rate_is_kept() -> None:
    yard = OperateKit()
    yard.bury(*[{} for _ in range(50)])
    began = yard.system.now()
    assert yard.replay(rate=10).replayed == 50
    assert 4.8 <= yard.system.now() - began <= 6.0


# -- what goes wrong


def test_a_write_that_fails_ends_it_before_that_record() -> None:
    yard = OperateKit()
    yard.bury(*[{} for _ in range(10)])
    seen = iter(range(100))
    yard.broker.fail_writes(
        lambda topic, partition, record: BrokerError("refused", Fault.DENIED) if next(seen) == 6 else None
    )
    result = yard.replay()
    assert (result.replayed, result.failed) == (6, True)
    assert "refused" in result.stopped
    assert yard.broker.committed_offsets(GROUP, DEAD) == {0: CommittedOffset(6)}
    yard.broker.fail_writes(None)
    assert yard.replay().replayed == 4
    assert set(yard.replayed_offsets()) == set(range(10))


def test_an_acknowledgement_that_is_lost_repeats_and_loses_nothing() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    yard.broker.fail_writes(lambda topic, partition, record: BrokerError("late", Fault.UNAVAILABLE), stored=True)
    assert yard.replay().replayed == 0
    yard.broker.fail_writes(None, stored=True)
    assert yard.replay().replayed == 2
    assert set(yard.replayed_offsets()) == {0, 1}


def test_an_outage_ends_it_in_bounded_time_with_nothing_half_done() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    plan = yard.plan()
    yard.broker.available = False
    result = Replay(plan, yard.adapter, yard.admin, system=yard.system).run()
    assert (result.replayed, result.failed) == (0, True)
    yard.broker.available = True
    assert yard.replay().replayed == 2


def test_an_offset_that_cannot_be_committed_is_reported() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    yard.broker.fail_commits(lambda group, partition, position: BrokerError("no", Fault.DENIED))
    result = yard.replay()
    assert (result.replayed, result.failed) == (2, True)
    assert "not committed" in result.stopped


def test_another_replay_at_the_same_time_is_noticed() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    plan = yard.plan()
    yard.broker.set_committed_offset(GROUP, TopicPartition(DEAD, 0), CommittedOffset(1))
    result = Replay(plan, yard.adapter, yard.admin, system=yard.system).run()
    assert result.failed
    assert "another replay" in result.stopped
    assert yard.broker.committed_offsets(GROUP, DEAD) == {0: CommittedOffset(1)}


# -- what is refused, and what is said


def test_members_that_consume_the_dead_letters_prevent_a_replay() -> None:
    yard = OperateKit()
    check_members(yard.admin, yard.policy)

    class Listener:
        def assigned(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
            return dict.fromkeys(partitions, 0)

        def revoked(self, partitions: object) -> None: ...
        def lost(self, partitions: object) -> None: ...

    member = yard.adapter.consumer(ConsumerSettings(DEAD, "billing-3"), Listener())  # type: ignore[arg-type]
    member.poll(1, 0)
    with pytest.raises(FluxError, match="1 member"):
        check_members(yard.admin, yard.policy)
    member.close()
    check_members(yard.admin, yard.policy)


def test_without_retries_there_is_only_the_main_topic() -> None:
    yard = OperateKit()
    none = policy(retries=0)
    with pytest.raises(ConfigurationError, match="--to main"):
        plan_replay(yard.admin, none, ReplayOptions())
    assert plan_replay(yard.admin, none, ReplayOptions(to_main=True)).target.topic == MAIN


def test_a_topic_that_is_not_there_is_named() -> None:
    yard = OperateKit()
    yard.broker.delete_topic(RETRY)
    with pytest.raises(ConfigurationError, match=RETRY):
        yard.plan()


def test_what_the_dead_letters_own_stage_has_retried_is_counted() -> None:
    yard = OperateKit()
    yard.bury({}, {}, {})
    yard.broker.set_committed_offset("billing-3", TopicPartition(DEAD, 0), CommittedOffset(2))
    assert yard.plan().retried == 2
    yard.replay()
    assert yard.plan().retried == 0


def test_the_group_of_replays_does_not_change_with_the_number_of_retries() -> None:
    assert replay_group(policy(retries=2)) == replay_group(policy(retries=5)) == GROUP
    named = policy()
    object.__setattr__(named, "stages", Stages(MAIN, "billing", 2, lambda topic, group, stage: (topic, f"acl.{group}")))
    assert replay_group(named) == "acl.billing-replay"

"""Status: snapshots, what two of them say together, and which records block committed offsets."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from flux.core import flux_headers
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.report import IN_PLACE, MOST_LIMITED, Call, Limited, Open, Paused, Report, StageReport
from flux.core.ports import CommittedOffset, GroupMember, ProducerRecord, TopicPartition, Watermarks
from flux.operate.status.blockers import LONG, StuckSince, blockers_of, suspects_of, update_stuck
from flux.operate.status.oldest_unfinished import OldestUnfinished
from flux.operate.status.records import Counted
from flux.operate.status.reports import ReceivedReport
from flux.operate.status.status import read_status
from flux.operate.status.task_status import (
    Blocker,
    Rates,
    StageStatus,
    TaskPause,
    TaskStatus,
)
from unit.support.memory_support import START
from unit.support.operate_support import DEAD, MAIN, NOW_MS, RETRY, OperateKit, headers_of, places, policy

STAGES = policy().stages
P0 = TopicPartition(MAIN, 0)


def stage_status(stage: int = 0, **given: Any) -> StageStatus:
    """A partition with ten records, the first of which is next, and a member that has it."""
    here = STAGES[stage]
    member = GroupMember("m", "c", "h", (TopicPartition(here.topic, 0),))
    settings: dict[str, Any] = {
        "committed": {0: CommittedOffset(0)},
        "watermarks": {0: Watermarks(0, 10)},
        "members": [member],
    }
    settings |= {"oldest_unfinished": {0: oldest()}}
    return StageStatus(here, True, **(settings | given))


def oldest(offset: int = 0, due: int | None = None, written_at: int = NOW_MS - 60_000) -> OldestUnfinished:
    return OldestUnfinished(offset, "ada", 1, written_at, due)


def stage_report(stage: int = 0, **given: Any) -> StageReport:
    here = STAGES[stage]
    settings: dict[str, Any] = {"done_rate": 0.0, "failed_rate": 0.0, "due_in": None, "calls": (), "open": ()}
    counts = dict.fromkeys(("done", "failed", "retried", "dead", "waiting", "in_flight", "on_their_way"), 0)
    return StageReport(
        task="Billing", stage=stage, topic=here.topic, group=here.group, partitions="0", **(counts | settings | given)
    )


def received(*stages: StageReport, age: float = 2.0) -> ReceivedReport:
    return ReceivedReport(Report("host", 7, None, "1", NOW_MS, 5.0, None, stages), age)


def at(
    *stages: StageStatus, later: float = 0.0, dead: int = 0, reports: list[ReceivedReport] | None = None
) -> TaskStatus:
    return TaskStatus(START + later, stages, {0: Counted(0, dead, dead, dead)}, reports)


# -- numbers


def test_what_waits_is_all_behind_a_record_that_waits_but_what_is_done() -> None:
    committed = CommittedOffset(0, OffsetTracker(0, [(4, 6)]).metadata())
    stage = stage_status(1, oldest_unfinished={0: oldest(due=NOW_MS + 5_000)}, committed={0: committed})
    assert at(stage).waiting(stage) == 8


def test_behind_a_record_that_is_due_what_is_younger_than_the_wait_waits() -> None:
    stage = stage_status(1, oldest_unfinished={0: oldest(due=NOW_MS - 5_000)}, first_young={0: 7})
    assert at(stage).waiting(stage) == 3
    none = stage_status(1, oldest_unfinished={0: oldest(due=NOW_MS - 5_000)}, first_young={0: 10})
    assert at(none).waiting(none) == 0


def test_behind_a_record_that_is_younger_than_the_wait_and_due_nothing_is_known_to_wait() -> None:
    replayed = stage_status(1, oldest_unfinished={0: oldest(due=NOW_MS - 5_000)}, first_young={0: 0})
    assert at(replayed).waiting(replayed) == 0
    assert (
        at(replayed, reports=[received(stage_report(1, waiting=2)), received(stage_report(1, waiting=1))]).waiting(
            replayed
        )
        == 3
    )


def test_what_waited_when_workers_reported_does_not_exceed_what_is_unfinished_now() -> None:
    stage = stage_status(1, committed={0: CommittedOffset(7)}, oldest_unfinished={0: oldest(7, due=NOW_MS - 1)})
    assert at(stage, reports=[received(stage_report(1, waiting=9))]).waiting(stage) == 3


def test_nothing_waits_in_the_main_topic() -> None:
    assert at(stage_status()).waiting(stage_status()) == 0


def test_the_next_due_is_the_first_of_oldest_records_and_reports() -> None:
    stage = stage_status(1, oldest_unfinished={0: oldest(due=NOW_MS + 9_000)})
    assert at(stage).next_due(stage) == NOW_MS + 9_000
    report = received(stage_report(1, due_in=6.0), age=2.0)
    assert at(stage, reports=[report]).next_due(stage) == NOW_MS + 4_000
    assert at(stage_status()).next_due(stage_status()) is None
    passed = received(stage_report(1, due_in=6.0), age=6.0)
    assert at(stage, reports=[passed]).next_due(stage) == NOW_MS + 9_000, "it has been called, probably"


def test_rates_are_those_of_all_processes_that_report() -> None:
    reports = [
        received(stage_report(done_rate=2.0, failed_rate=0.5)),
        received(stage_report(done_rate=1.0)),
        received(stage_report(1, done_rate=9.0)),
    ]
    stage = stage_status()
    assert at(stage, reports=reports).rates(stage, None) == Rates(3.0, 0.5)


def test_without_reports_rates_come_from_two_snapshots() -> None:
    first, after = stage_status(), stage_status(1)
    before = at(first, after)
    moved = stage_status(committed={0: CommittedOffset(6, OffsetTracker(6, [(8, 10)]).metadata())})
    came = stage_status(1, watermarks={0: Watermarks(0, 12)})
    found = at(moved, came, later=2.0)
    assert found.rates(moved, before) == Rates(3.0, 1.0)
    assert found.rates(moved, None) == Rates(None, None)
    assert at(moved, dead=9, later=2.0).dead_rate(before) == 4.5


def test_a_committed_offset_that_was_set_back_is_no_negative_rate() -> None:
    before = at(stage_status(committed={0: CommittedOffset(9)}))
    now = stage_status(committed={0: CommittedOffset(1)})
    assert at(now, later=1.0).rates(now, before).done == 0.0


# -- what is paused


def test_each_process_that_is_paused_is_named_once_the_longest_first() -> None:
    short, long = Paused("TimeoutError", 1.0, None), Paused("ConnectionError", 60.0, 12.0)
    here = received(stage_report(paused=short), stage_report(1, paused=short))
    there = attrs.evolve(here, report=attrs.evolve(here.report, host="other", stages=(stage_report(1, paused=long),)))
    found = at(stage_status(), stage_status(1), reports=[here, there, received(stage_report())])
    assert found.pauses() == [
        TaskPause("other pid 7", "ConnectionError", 62.0, 10.0),
        TaskPause("host pid 7", "TimeoutError", 3.0, None),
    ]


def test_a_name_whose_calls_are_paused_is_listed_once() -> None:
    why = "9 of the last 9 calls failed"
    name = Paused("TooManyFailures", 1.0, 5.0, why=why, name="acme")
    reports = [received(stage_report(paused_names=(name,)), stage_report(1, paused_names=(name,)))]
    [pause] = at(stage_status(), stage_status(1), reports=reports).pauses()
    known = pause.what, pause.error, pause.why, pause.end
    assert known == ("host pid 7, calls for acme", "TooManyFailures", why, "next try in 3 seconds")


def test_what_limits_hold_back_is_added_up_over_processes_and_stages_the_most_first() -> None:
    names = [Limited("rate_limit_key", f"n{number}", 1 + number) for number in range(MOST_LIMITED)]
    here = received(stage_report(limited=tuple(names)), stage_report(1, limited=(names[0],)))
    there = received(stage_report(limited=(Limited("rate_limit_key", "n0", 100), Limited("pause_when", "n0", 1))))
    found = at(stage_status(), stage_status(1), reports=[here, there]).limited()
    assert found[:2] == [Limited("rate_limit_key", "n0", 102), Limited("rate_limit_key", "n9", 10)]
    assert len(found) == MOST_LIMITED
    assert at(stage_status()).limited() == []


def test_a_pause_by_a_command_says_who_until_when_and_of_which_stages() -> None:
    paused = Paused("ada", 5.0, None, commanded=True, ends_in=60.0, why="audit")
    later = attrs.evolve(paused, seconds=5.1)
    found = at(
        stage_status(), stage_status(1), reports=[received(stage_report(paused=paused), stage_report(1, paused=later))]
    )
    [pausing] = found.pauses()
    assert (pausing.process, pausing.error, pausing.command, pausing.ends_in) == ("host pid 7", "ada", True, 58.0)
    assert (pausing.end, pausing.what, pausing.why) == ("ends in 58 seconds", "host pid 7", "audit")
    endless = attrs.evolve(paused, ends_in=None)
    found = at(stage_status(), stage_status(1), reports=[received(stage_report(), stage_report(1, paused=endless))])
    [pausing] = found.pauses()
    assert (pausing.end, pausing.what) == ("until flux resume", "host pid 7, stage 1")


def test_the_next_try_of_a_report_is_not_in_the_past() -> None:
    [pausing] = at(
        stage_status(), reports=[received(stage_report(paused=Paused("OSError", 1.0, 1.5)), age=4.0)]
    ).pauses()
    assert pausing.tried_in == 0.0


def test_nothing_is_paused_where_nobody_reports() -> None:
    assert at(stage_status()).pauses() == []


# -- what holds


def blockers(found: TaskStatus, stuck_since: StuckSince | None = None) -> list[Blocker]:
    return blockers_of(found, update_stuck(found, stuck_since or {}))


def test_a_call_that_runs_long_is_named_with_its_process() -> None:
    call = Call(0, 0, "ada", 3, 300.0)
    [blocker] = blockers(at(stage_status(), reports=[received(stage_report(calls=(call,)))]))
    assert (blocker.place, blocker.why, blocker.process) == ("0:0", "its call is running", "host pid 7")
    assert (blocker.seconds, blocker.behind, blocker.oldest.key) == (302.0, 9, "ada")


def test_a_call_that_has_just_begun_blocks_nothing() -> None:
    call = Call(0, 0, "ada", 1, 0.5)
    assert blockers(at(stage_status(), reports=[received(stage_report(calls=(call,)), age=0)])) == []


def test_a_copy_that_is_refused_is_named_with_where_it_cannot_go() -> None:
    kept = Open(0, 0, None, 1, DEAD, "kept", 4, 30.0)
    [blocker] = blockers(at(stage_status(), reports=[received(stage_report(open=(kept,)))]))
    assert blocker.why == f"its copy for {DEAD} is kept, 4 failures"
    produced = Open(0, 0, None, 1, "", "produced", 0, 30.0)
    [blocker] = blockers(at(stage_status(), reports=[received(stage_report(open=(produced,)))]))
    assert blocker.why == "records that its call produced are not acknowledged yet"


def test_what_is_tried_in_place_is_named_as_that() -> None:
    tried = Open(0, 0, "ada", 3, MAIN, IN_PLACE, 2, 30.0)
    [blocker] = blockers(at(stage_status(), reports=[received(stage_report(open=(tried,)))]))
    assert blocker.why == "it is tried again in place, after 2 failures"


def test_what_a_paused_task_blocks_is_named_with_the_pause() -> None:
    reports = [received(stage_report(paused=Paused("ConnectionError", 60.0, 3.0)))]
    [blocker] = blockers(at(stage_status(), reports=reports))
    assert (blocker.why, blocker.seconds, blocker.process) == (
        "its task is paused by ConnectionError",
        62.0,
        "host pid 7",
    )
    assert (
        blockers(at(stage_status(), reports=[received(stage_report(paused=Paused("ConnectionError", 1.0, 3.0)))])) == []
    )


def test_records_done_behind_another_show_that_it_blocks_without_reports() -> None:
    committed = CommittedOffset(0, OffsetTracker(0, [(1, 8)]).metadata())
    busy = at(stage_status(committed={0: committed}))
    assert blockers(busy) == [], "calls run in parallel: the next snapshot may show it done"
    assert suspects_of(busy) == {(P0, 0)}
    [blocker] = blockers(at(stage_status(committed={0: committed}), later=LONG), update_stuck(busy, {}))
    assert (blocker.why, blocker.seconds, blocker.behind) == ("7 later records done; its call may be running", LONG, 2)


def test_a_record_that_a_worker_reports_is_no_suspect_and_blocks_once_it_has_for_long() -> None:
    committed = {0: CommittedOffset(0, OffsetTracker(0, [(1, 8)]).metadata())}
    for seconds, named in ((LONG - 3.0, False), (LONG - 2.0, True)):
        report = received(stage_report(calls=(Call(0, 0, "ada", 1, seconds),)))
        found = at(stage_status(committed=committed), reports=[report])
        assert (suspects_of(found), bool(blockers(found))) == (set(), named)


def test_a_record_that_is_not_due_or_has_nothing_done_behind_it_is_no_suspect() -> None:
    assert suspects_of(at(stage_status())) == set()
    committed = {0: CommittedOffset(0, OffsetTracker(0, [(1, 8)]).metadata())}
    waits = stage_status(1, committed=committed, oldest_unfinished={0: oldest(due=NOW_MS + 60_000)})
    assert suspects_of(at(waits)) == set()


def test_a_partition_that_no_member_has_is_named() -> None:
    [blocker] = blockers(at(stage_status(members=[])))
    assert (blocker.why, blocker.seconds) == ("group billing has no members", 60.0)
    assert blockers(at(stage_status(members=[], oldest_unfinished={0: oldest(written_at=NOW_MS - 4_999)}))) == []
    others = [GroupMember("m", "c", "h", (TopicPartition(MAIN, 1),))]
    assert blockers(at(stage_status(members=others)))[0].why == "group billing has no member with this partition"


def test_a_committed_offset_that_does_not_move_is_named() -> None:
    stuck_since = update_stuck(at(stage_status()), {})
    assert blockers(at(stage_status(), later=3.0), stuck_since) == []
    [blocker] = blockers(at(stage_status(), later=6.0), stuck_since)
    assert (blocker.why, blocker.seconds) == ("the committed offset does not move", 6.0)


def test_the_wait_for_the_due_time_does_not_count_as_blocked() -> None:
    waits = stage_status(1, oldest_unfinished={0: oldest(due=NOW_MS + 60_000)})
    stuck_since = update_stuck(at(waits), {})
    assert blockers(at(waits, later=64.0), stuck_since) == []
    [blocker] = blockers(at(waits, later=66.0), stuck_since)
    assert (blocker.why, blocker.seconds) == ("the committed offset does not move", 6.0)
    moved = stage_status(committed={0: CommittedOffset(1)}, oldest_unfinished={0: oldest(1)})
    assert blockers(at(moved, later=6.0), stuck_since) == []


def test_a_record_that_is_not_due_blocks_nothing() -> None:
    waits = stage_status(1, oldest_unfinished={0: oldest(due=NOW_MS + 60_000)}, members=[])
    assert blockers(at(waits)) == []


def test_the_longest_comes_first() -> None:
    slow, slower = Call(0, 0, None, 1, 20.0), Call(0, 0, None, 1, 90.0)
    found = at(
        stage_status(),
        stage_status(1),
        reports=[received(stage_report(calls=(slow,)), stage_report(1, calls=(slower,)))],
    )
    assert [blocker.stage.number for blocker in blockers(found)] == [1, 0]


# -- asked of a cluster


@pytest.fixture
def yard() -> OperateKit:
    return OperateKit(2)


def test_a_snapshot_has_committed_offsets_ends_members_and_oldest_unfinished_records(yard: OperateKit) -> None:
    yard.kit.write(*(ProducerRecord(b"v", b"k%d" % n, (), n % 2, NOW_MS - 5) for n in range(6)), topic=MAIN)
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(1))
    retry = [pair for pair in headers_of() if pair[0] != flux_headers.ATTEMPTS]
    retry += [(flux_headers.ATTEMPTS, b"1"), (flux_headers.DUE, str(NOW_MS + 9).encode())]
    yard.kit.write(ProducerRecord(b"v", b"r", retry, 1, NOW_MS), topic=RETRY)
    yard.bury({}, {})
    consumer, _ = yard.kit.consumer(MAIN, "billing")
    consumer.poll(1, 0.1)
    found = read_status(yard.adapter, yard.admin, yard.policy, None, system=yard.system)
    main, first, second = found.stages
    assert (main.lag, main.end, found.dead_letters) == (5, 6, 2)
    assert [member.partitions for member in main.members or ()] == [(P0, TopicPartition(MAIN, 1))]
    assert {n: (h.offset, h.key, h.attempt) for n, h in main.oldest_unfinished.items()} == {
        0: (1, "k2", 1),
        1: (0, "k1", 1),
    }
    assert first.oldest_unfinished == {
        1: OldestUnfinished(0, "r", 2, NOW_MS, NOW_MS + 9, first.oldest_unfinished[1].size)
    }
    assert found.waiting(first) == 1
    assert (second.oldest_unfinished, second.lag) == ({}, 0)
    assert found.reports is None


def test_a_stage_without_a_topic_is_missing(yard: OperateKit) -> None:
    yard.broker.delete_topic(RETRY)
    yard.broker.delete_topic(DEAD)
    found = read_status(yard.adapter, yard.admin, yard.policy, "reports", system=yard.system)
    assert [each.exists for each in found.stages] == [True, False, True]
    assert (found.dead, found.dead_letters) == (None, 0)


def test_a_group_that_starts_at_the_end_waits_for_nothing_that_is_there(yard: OperateKit) -> None:
    yard.kit.write(ProducerRecord(b"v", partition=0), topic=MAIN)
    latest = attrs.evolve(yard.policy, start_from="latest")
    assert read_status(yard.adapter, yard.admin, latest, None, system=yard.system).stages[0].oldest_unfinished == {}


def test_a_group_that_starts_at_the_end_waits_for_what_is_in_a_partition_that_came_later(yard: OperateKit) -> None:
    yard.broker.set_committed_offset("billing", TopicPartition(MAIN, 0), CommittedOffset(0))
    yard.kit.write(ProducerRecord(b"v", partition=1), topic=MAIN)
    latest = attrs.evolve(yard.policy, start_from="latest")
    assert set(read_status(yard.adapter, yard.admin, latest, None, system=yard.system).stages[0].oldest_unfinished) == {
        1
    }


def test_without_permission_to_read_the_next_records_are_not_known(
    yard: OperateKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.kit.write(ProducerRecord(b"v", partition=0), topic=MAIN)

    def reader(starts: object) -> None:
        raise BrokerError("cannot read", Fault.DENIED)

    monkeypatch.setattr(yard.adapter, "reader", reader)
    found = read_status(yard.adapter, yard.admin, yard.policy, None, system=yard.system)
    assert (found.stages[0].lag, found.stages[0].oldest_unfinished) == (1, {})


def test_rejected_dead_letters_that_the_topic_still_has_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    yard = OperateKit()

    def status() -> TaskStatus:
        return read_status(yard.adapter, yard.admin, yard.policy, None, system=yard.system)

    assert status().rejected == 0
    yard.bury({}, {}, {}, {})
    yard.reject(places((0, 0), (0, 2)))
    assert (status().dead_letters, status().rejected) == (4, 2)
    yard.broker.delete_records(TopicPartition(DEAD, 0), 1)
    assert (status().dead_letters, status().rejected) == (3, 1)
    monkeypatch.setattr("flux.operate.status.status.read_progress", lambda *_: None)  # the login may not see it
    assert status().rejected == 0

"""Assignment, revocation, loss, and positions that the log no longer holds."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.assignment import Assignment
from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.common import SHOWN, Common
from flux.core.engine.crashes import SETTLED, Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.engine.partitions import Partitions
from flux.core.engine.runs import Run
from flux.core.errors import BrokerError, Fault
from flux.core.limits.call_limits import CallLimits
from flux.core.ports import BEGINNING, CommittedOffset, PollResult, TopicPartition, Watermarks
from flux.core.stage import Role
from unit.support.engine_support import AWAY, P0, P1, STAGES, T0, Driver, offsets, policy, record


def in_a_call(driver: Driver, *records: int) -> Run:
    driver.assign(0, 0)
    driver.poll(*records)
    return driver.take()


def test_a_partition_starts_where_the_group_was_and_without_a_position_at_its_beginning() -> None:
    driver = Driver()
    assert driver.assign(7, None) == {driver.p0: 7, driver.p1: BEGINNING}


def test_a_position_that_was_chosen_is_committed_although_no_record_comes() -> None:
    driver = Driver(commit_interval=5.0)
    driver.assign(42, 7, chosen=[driver.p0])
    assert driver.turn().commit == {driver.p0: CommittedOffset(42)}


def test_metadata_that_is_not_ours_costs_a_replay_and_a_warning() -> None:
    driver = Driver()
    driver.assign(CommittedOffset(5, "someone else's"))
    assert "not flux's" in driver.log_events()
    driver.poll(5, 6)
    assert driver.work_all() == [5, 6]


def test_a_revocation_lets_the_call_in_flight_end_and_starts_no_other() -> None:
    driver = Driver()
    run = in_a_call(driver, 0, 1, 2)
    driver.engine.revoking([driver.p0])
    assert not driver.engine.drained([driver.p0])
    assert driver.work(run) == [0]
    assert driver.engine.drained([driver.p0])
    assert driver.nothing_to_take()
    assert driver.engine.commit(driver.now, [driver.p0], at_once=True) == {driver.p0: CommittedOffset(1)}
    driver.engine.revoked([driver.p0])
    assert driver.engine.partitions == [driver.p1]


def test_a_failure_during_a_drain_still_writes_its_forward() -> None:
    driver = Driver()
    run = in_a_call(driver, 0, 1)
    driver.engine.revoking([driver.p0])
    driver.work(run, 0)
    assert not driver.engine.drained([driver.p0])
    assert driver.write() == [0]
    assert driver.engine.drained([driver.p0])
    assert driver.engine.commit(driver.now, [driver.p0], at_once=True) == {driver.p0: CommittedOffset(1)}


@pytest.mark.parametrize("lost", [False, True])
def test_a_call_that_outlives_its_assignment_commits_nothing_and_writes_no_forward(lost: bool) -> None:
    driver = Driver()
    run = in_a_call(driver, 0, 1)
    if lost:
        driver.engine.lost([driver.p0])
    else:
        driver.engine.revoking([driver.p0])
        driver.engine.revoked([driver.p0])
    driver.assign(0)
    driver.work(run, 0)
    assert driver.write() == []
    assert driver.commit() == {}
    driver.poll(0, 1)
    assert driver.work_all() == [0, 1]
    assert driver.commit() == {0: CommittedOffset(2)}


def test_a_call_of_an_old_generation_that_ends_well_counts_for_nothing_in_the_new_one() -> None:
    driver = Driver()
    run = in_a_call(driver, 0, 1)
    driver.engine.lost([driver.p0])
    driver.assign(0)
    driver.poll(0, 1)
    assert driver.work(run) == [0]
    assert driver.commit() == {}


def test_products_of_an_old_generation_count_for_nothing() -> None:
    driver = Driver()
    run = in_a_call(driver, 0, 1)
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    driver.engine.lost([driver.p0])
    driver.assign(0)
    driver.poll(0)
    driver.engine.settled(entry, None, driver.now)
    assert driver.commit() == {}
    late = in_a_call(Driver(), 0)
    assert driver.engine.produced(run, 0, driver.message(late, 0)) is None


def test_an_acknowledgement_of_an_old_generation_commits_nothing() -> None:
    driver = Driver()
    run = in_a_call(driver, 0)
    driver.work(run, 0)
    [forward] = driver.engine.writes(driver.now)
    driver.engine.lost([driver.p0])
    driver.assign(0)
    driver.poll(0)
    driver.engine.written(forward, driver.now)
    assert driver.commit() == {}
    assert driver.work_all() == [0]


def test_an_outage_seen_by_an_old_generation_does_not_hold_the_new_one() -> None:
    driver = Driver()
    driver.work(in_a_call(driver, 0), 0)
    driver.write(AWAY)
    driver.engine.lost([driver.p0])
    driver.assign(0)
    driver.poll(0)
    assert driver.work_all() == [0]


def test_records_of_a_partition_that_is_given_up_are_not_taken_in() -> None:
    driver = Driver()
    driver.assign(0)
    driver.engine.revoking([driver.p0])
    driver.poll(0)
    driver.engine.revoked([driver.p0])
    assert driver.nothing_to_take()
    driver.poll(0)
    assert driver.nothing_to_take()


def test_other_partitions_go_on_through_a_revocation() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(0, driver.record(0, b"x", 1))
    driver.engine.revoking([driver.p0])
    run = driver.take()
    assert driver.message(run, 0).partition == 1
    driver.work(run)
    driver.engine.revoked([driver.p0])
    assert driver.commit() == {1: CommittedOffset(1)}


def test_one_assigned_twice_without_a_revocation_forgets_its_first_life() -> None:
    driver = Driver()
    run = in_a_call(driver, 0, 1)
    driver.assign(0)
    driver.work(run, 0)
    assert driver.write() == []
    driver.poll(0, 1)
    assert driver.work_all() == [0, 1]


def test_a_position_out_of_range_goes_on_from_the_oldest_record_and_counts_what_is_gone() -> None:
    driver = Driver()
    driver.assign(5)
    driver.engine.polled(PollResult([], [driver.p0]), driver.now)
    assert driver.turn().reset == (driver.p0,)
    assert driver.engine.reset(driver.p0, Watermarks(20, 30), driver.now) == 20
    assert "15 offset(s) are gone" in driver.log_events()
    turn = driver.turn()
    assert turn.reset == ()
    assert turn.commit == {driver.p0: CommittedOffset(20)}
    driver.engine.committed(turn.commit, None, driver.now)
    driver.poll(20, 21)
    assert driver.work_all() == [20, 21]
    assert driver.commit() == {0: CommittedOffset(22)}


def test_a_topic_created_anew_is_named() -> None:
    driver = Driver()
    driver.assign(500)
    assert driver.engine.reset(driver.p0, Watermarks(0, 3), driver.now) == 0
    assert "was the topic recreated" in driver.log_events()
    assert driver.turn().commit == {driver.p0: CommittedOffset(0)}


def test_a_topic_created_anew_that_has_grown_past_the_old_position_is_worked_from_its_beginning() -> None:
    driver = Driver()
    driver.assign(55)
    assert driver.engine.reset(driver.p0, Watermarks(0, 60), driver.now) == 0
    driver.poll(*range(60))
    assert driver.work_all() == list(range(60))


def test_nothing_is_reset_that_is_not_ours() -> None:
    driver = Driver()
    driver.assign(5)
    driver.engine.polled(PollResult([], [driver.p0]), driver.now)
    driver.engine.revoking([driver.p0])
    assert driver.engine.reset(driver.p0, Watermarks(0, 3), driver.now) is None
    driver.engine.revoked([driver.p0])
    assert driver.engine.reset(driver.p0, Watermarks(0, 3), driver.now) is None
    assert driver.turn().reset == ()


def test_a_stop_begins_nothing_new_and_counts_what_ends() -> None:
    driver = Driver()
    run = in_a_call(driver, 0, 1, 2)
    driver.engine.stop()
    assert not driver.engine.quiet
    driver.poll(3)
    assert driver.work(run) == [0]
    assert driver.nothing_to_take()
    assert driver.engine.ready(driver.now) == 0
    assert driver.engine.quiet
    assert driver.engine.commit(driver.now, at_once=True) == {driver.p0: CommittedOffset(1)}
    assert set(driver.turn().pause) == {driver.p0, driver.p1}


def test_a_stop_in_a_retry_stage_forgets_what_waits() -> None:
    driver = Driver(1)
    driver.assign(0)
    driver.poll(0)
    driver.engine.stop()
    driver.now = T0 + 1000
    assert driver.nothing_to_take()
    assert driver.engine.waiting == 0


def test_idle_means_nothing_in_flight_unread_or_uncommitted() -> None:
    driver = Driver()
    driver.assign(0)
    assert driver.engine.idle
    driver.poll(0)
    assert not driver.engine.idle
    run = driver.take()
    assert not driver.engine.idle
    driver.work(run, 0)
    assert not driver.engine.idle
    driver.write()
    assert not driver.engine.idle
    positions = driver.turn(after=10).commit
    assert positions
    assert not driver.engine.idle
    driver.engine.committed(positions, None, driver.now)
    assert driver.engine.idle


def test_a_record_that_waits_is_not_idle() -> None:
    driver = Driver(1)
    driver.assign(0)
    driver.poll(0)
    assert not driver.engine.idle
    assert driver.engine.waiting == 1


def test_the_stage_says_how_far_each_partition_was_delivered() -> None:
    driver = Driver()
    driver.assign(3, None)
    driver.poll(4, 6)
    assert driver.engine.read_offsets() == {driver.p0: 7, driver.p1: BEGINNING}


def test_the_stage_says_how_many_offsets_are_unfinished_and_how_many_of_them_wait() -> None:
    driver = Driver(1)
    driver.assign(0, None)
    driver.poll(driver.record(1), driver.record(3), driver.record(6))
    assert driver.engine.unfinished_offsets() == {driver.p0: 6, driver.p1: 0}, "from 1 on, with the gaps"
    assert driver.engine.waiting_offsets() == {driver.p0: 6, driver.p1: 0}
    driver.now += 20
    run = driver.take()
    assert driver.engine.waiting_offsets() == {driver.p0: 0, driver.p1: 0}
    driver.work(run)
    assert driver.engine.unfinished_offsets() == {driver.p0: 0, driver.p1: 0}


def test_a_stuck_run_is_split_and_the_rest_goes_to_others_with_its_keys_in_order() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(*(driver.record(offset, key) for offset, key in enumerate([b"x", b"y", b"x", b"y"])))
    run = driver.take()
    assert driver.look() == [run]
    other = driver.engine.take(False, driver.now)
    assert other is not None
    assert offsets(other) == [1]
    driver.work(other)
    last = driver.engine.take(False, driver.now)
    assert last is not None
    assert offsets(last) == [3]
    driver.work(last)
    assert driver.engine.take(False, driver.now) is None
    assert driver.work(run) == [0]
    assert driver.work_all() == [2]
    assert driver.commit() == {0: CommittedOffset(4)}


def test_while_calls_are_quick_the_poller_alone_gets_work() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    assert driver.engine.take(False, driver.now) is None
    assert driver.take()


def test_the_stages_role_decides_about_waiting() -> None:
    assert [Driver(number).stage.role for number in range(4)] == [Role.MAIN, Role.RETRY, Role.RETRY, Role.DEAD]


# -- alone


def partitions(**settings: Any) -> tuple[Partitions, Common]:
    shared = Common(policy(**settings), STAGES[0], CallLimits())
    return Partitions(shared, lambda assignment: None), shared


def test_an_assignment_of_nothing_is_no_news_of_the_topic() -> None:
    owned, _ = partitions()
    error = BrokerError("unknown", Fault.UNKNOWN_TOPIC)
    owned.topic_propagation.unknown(error, T0)
    assert owned.assigned({}, {}, T0) == {}
    assert owned.topic_propagation.over(T0 + 60) is error
    owned.assigned({P0: None}, {P0: 0}, T0)
    assert owned.topic_propagation.over(T0 + 60) is None


def test_what_was_read_is_committed_unless_the_stage_stops() -> None:
    owned, shared = partitions()
    owned.assigned({P0: CommittedOffset(3), P1: None}, {P0: 0, P1: 0}, T0)
    owned.reached({P0: 7, TopicPartition("t", 9): 7})
    owned.reached({P0: 8})
    assert shared.commits.done == 2
    assert owned.commit(T0, None, False) == {P0: CommittedOffset(8)}
    assert shared.commits.waited(T0 + 1) == 1
    assert owned.commit(T0, [P1], True) is None
    shared.stopping = True
    owned.reached({P1: 7})
    assert owned.committable_offsets() == {P0: 8, P1: BEGINNING}
    assert owned.uncommitted_progress() == {P0: 8}
    owned.committed({P0: CommittedOffset(8)}, None, T0)
    assert owned.uncommitted_progress() == {}
    assert owned.read_offsets() == {P0: 8, P1: BEGINNING}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            BrokerError("too long", Fault.METADATA),
            [
                LogEvent(
                    Level.ERROR,
                    "the broker refuses metadata of this length with a committed offset (too long): set the task's"
                    " max_metadata to its offset.metadata.max.bytes; until then records completed past a committed"
                    " offset are processed again after a crash",
                )
            ],
        ),
        (
            BrokerError("no", Fault.DENIED),
            [LogEvent(Level.ERROR, "offsets of g cannot be committed: no", kind=("commit", Fault.DENIED))],
        ),
        (BrokerError("away", Fault.UNAVAILABLE), []),
        (BrokerError("fenced", Fault.FENCED), []),
    ],
)
def test_a_commit_that_fails_is_logged_unless_it_is_tried_again_anyway(
    error: BrokerError, says: list[LogEvent]
) -> None:
    owned, shared = partitions()
    owned.assigned({P0: CommittedOffset(3)}, {P0: 0}, T0)
    [assignment] = owned.of([P0])
    list(assignment.deliver([record(offset) for offset in range(3, 9)]))
    assert assignment.offset_tracker is not None
    assignment.offset_tracker.done(5, 6)
    assignment.offset_tracker.done(3, 4)
    positions = owned.commit(T0, None, False)
    assert positions is not None
    assert positions[P0].metadata
    owned.committed(positions, error, T0)
    assert shared.log_events.take() == says
    assert shared.stats.commit_failures == 1
    again = owned.commit(T0 + 9, None, False)
    assert again == ({P0: CommittedOffset(4)} if error.fault is Fault.METADATA else positions)
    for _ in range(2):
        owned.committed({**again, P1: CommittedOffset(1)}, None, T0 + 9)
    assert (shared.stats.commits, assignment.committed) == (2, again[P0])


@pytest.mark.parametrize(("start_from", "owed"), [("earliest", [P1]), ("latest", [P0, P1])])
def test_only_a_start_offset_without_a_commit_need_not_be_committed(
    start_from: str, owed: list[TopicPartition]
) -> None:
    owned, _ = partitions(start_from=start_from)
    owned.assigned({P0: CommittedOffset(3), P1: CommittedOffset(3)}, {P0: 0, P1: 0}, T0, chosen=[P0])
    positions = {P0: CommittedOffset(3), P1: CommittedOffset(4)}
    assert list(owned.must_commit(positions)) == owed
    assert owned.must_commit({P0: CommittedOffset(4)}) == {P0: CommittedOffset(4)}


@pytest.mark.parametrize("begins", ["reached", "delivered"])
def test_where_a_partition_without_a_commit_begins_need_not_be_committed(begins: str) -> None:
    owned, _ = partitions()
    owned.assigned({P0: None}, {P0: 0}, T0)
    if begins == "reached":
        owned.reached({P0: 4})
    else:
        list(owned.assignments[P0].deliver([record(4)]))
    offsets = owned.commit(T0, None, at_once=True)
    assert offsets == {P0: CommittedOffset(4)}
    assert owned.must_commit(offsets) == {}
    assert owned.uncommitted_progress() == {}
    owned.reached({P0: 5})
    if begins == "reached":
        assert owned.must_commit({P0: CommittedOffset(5)}) == {P0: CommittedOffset(5)}
        assert owned.uncommitted_progress() == {P0: 5}


def test_offsets_that_could_not_be_committed_are_named_a_few_of_many() -> None:
    owned, shared = partitions()
    owned.commit_abandoned({TopicPartition("t", number): CommittedOffset(7) for number in range(SHOWN + 2)}, AWAY)
    shown = ", ".join(f"t[{number}] up to 7" for number in range(SHOWN))
    again = "records done since the last commit are processed again"
    assert len(owned.uncommitted) == SHOWN + 2
    owned.commit_abandoned({TopicPartition("t", number): CommittedOffset(7) for number in range(SHOWN)}, AWAY)
    assert shared.log_events.take() == [
        LogEvent(Level.ERROR, f"not committed: {shown} and 2 more (not now): {again}"),
        LogEvent(Level.ERROR, f"not committed: {shown} (not now): {again}"),
    ]


def test_records_completed_past_the_committed_offset_are_not_delivered_again() -> None:
    owned, _ = partitions()
    committed = CommittedOffset(3, OffsetTracker(3, [(4, 6)]).metadata())
    assert owned.assigned({P0: committed}, {P0: 0}, T0) == {P0: 3}
    [assignment] = owned.of([P0])
    pieces = list(assignment.deliver([record(offset) for offset in range(3, 8)]))
    assert [[one.offset() for one in piece.records] for piece in pieces] == [[3], [6, 7]]


def test_a_partition_that_is_gone_is_dropped_by_all_and_commits_nothing() -> None:
    dropped: list[Assignment] = []
    owned = Partitions(Common(policy(), STAGES[0], CallLimits()), dropped.append)
    owned.assigned({P0: CommittedOffset(3)}, {P0: 0}, T0)
    [old] = owned.of([P0])
    owned.reached({P0: 7})
    assert owned.commit(T0, None, at_once=True) == {P0: CommittedOffset(7)}
    owned.resets.add(P0)
    owned.lost([P0])
    assert (dropped, owned.resets, owned.uncommitted) == ([old], set(), {})
    assert owned.commit(T0, None, at_once=True) is None


@pytest.mark.parametrize(
    ("start", "marks", "why"),
    [
        (5, Watermarks(20, 30), "15 offset(s) are gone before they were processed (deleted by retention?)"),
        (19, Watermarks(20, 30), "1 offset(s) are gone before they were processed (deleted by retention?)"),
        (20, Watermarks(20, 30), "the log ends at 30 (was the topic recreated?)"),
        (BEGINNING, Watermarks(20, 30), "the log ends at 30 (was the topic recreated?)"),
    ],
)
def test_a_reset_is_logged_and_committed_soon(start: int, marks: Watermarks, why: str) -> None:
    owned, shared = partitions(max_metadata=100)
    owned.assigned({P0: None if start == BEGINNING else CommittedOffset(start)}, {P0: 7}, T0)
    shared.commits.checked(T0)
    assert not shared.commits.due(T0)
    assert owned.reset(P0, marks, T0) == 20
    at = 20 if start == BEGINNING else start
    assert shared.log_events.take() == [
        LogEvent(Level.ERROR, f"t[0]: offset {at} is out of range: {why}; continuing at the oldest, 20", P0)
    ]
    assert shared.commits.due(T0)
    assert owned.commit(T0, None, at_once=True) == {P0: CommittedOffset(20)}
    [now_owned] = owned.of([P0])
    assert (now_owned.jitter, now_owned.max_metadata) == (7, 100)


def test_only_an_offset_that_was_chosen_is_committed_soon() -> None:
    owned, shared = partitions(max_metadata=100)
    shared.commits.checked(T0)
    owned.assigned({P0: CommittedOffset(5)}, {P0: 7}, T0)
    assert not shared.commits.due(T0)
    owned.assigned({P1: CommittedOffset(5)}, {P1: 9}, T0, chosen=[P1])
    assert shared.commits.due(T0)
    assert [(each.jitter, each.max_metadata) for each in owned.of([P0, P1])] == [(7, 100), (9, 100)]


def test_each_rebalance_changes_the_share_of_the_groups_rate() -> None:
    driver = Driver(rate_limit=10.0, rate_limit_scope="group")
    limits = driver.engine.call_limits
    assert limits.share is not None
    limits.share.counted(0, 4)
    driver.assign(0, 0)
    assert limits.rate_limit.rate == pytest.approx(4.5)
    assert "4.5 of the group's 10 calls a second" in driver.log_events()
    driver.engine.revoking([driver.p1])
    driver.engine.revoked([driver.p1])
    assert limits.rate_limit.rate == pytest.approx(2.25)


def test_a_record_is_done_or_not_or_of_a_partition_that_is_not_assigned() -> None:
    owned, _ = partitions()
    owned.assigned({P0: CommittedOffset(5)}, {P0: 0}, T0)
    assert [owned.done_at(P0, 4), owned.done_at(P0, 5), owned.done_at(P1, 4)] == [True, False, None]
    owned.assigned({P1: None}, {P1: 0}, T0)
    assert owned.done_at(P1, 4) is False


# ---- owners that vanished


def marked(mark: Mark | None, at: int = 5) -> CommittedOffset:
    return CommittedOffset(at, OffsetTracker(at).metadata(mark))


@pytest.mark.parametrize(("mark", "crashes"), [(None, 0), (Mark(0), 1), (Mark(1), 2)])
def test_a_partition_whose_owner_vanished_is_suspicious_while_it_is_owned(mark: Mark | None, crashes: int) -> None:
    owned, shared = partitions(max_crashes=2)
    owned.assigned({P0: marked(mark)}, {P0: 0}, T0)
    assert [each.crashes.crashes for each in owned.suspicious] == ([crashes] if crashes else [])
    assert shared.commits.deadline(T0) == (T0 if crashes else None)
    owned.lost([P0])
    assert not owned.suspicious


def test_without_metadata_a_mark_means_nothing() -> None:
    owned, _ = partitions(max_crashes=2, max_metadata=0)
    owned.assigned({P0: marked(Mark(2, 5))}, {P0: 0}, T0)
    assert owned.assignments[P0].crashes.opened


def noting(**settings: Any) -> tuple[Partitions, list[tuple[TopicPartition, bool]]]:
    told: list[tuple[TopicPartition, bool]] = []
    shared = Common(policy(max_crashes=2, **settings), STAGES[0], CallLimits())
    owned = Partitions(shared, lambda _: None, lambda each, succeeded, now: told.append((each.partition, succeeded)))
    owned.assigned({P0: CommittedOffset(5)}, {P0: 0}, T0)
    owned.assignments[P0].crashes.begins(5, T0)
    return owned, told


def test_a_mark_is_noted_when_the_commit_with_it_has_ended() -> None:
    owned, told = noting()
    offsets = owned.commit(T0, None, False)
    assert offsets == {P0: marked(Mark(0))}
    owned.committed({P0: CommittedOffset(5)}, None, T0)
    assert told == []
    owned.committed(offsets, None, T0)
    assert told == [(P0, True)]
    assert owned.commit(T0, None, False) is None
    assert told == [(P0, True)] * 2
    owned.assignments[P0].crashes.opened = True
    owned.commit(T0, None, False)
    owned.committed(offsets, None, T0)
    assert len(told) == 2


@pytest.mark.parametrize("error", [AWAY, BrokerError("too large", Fault.METADATA)])
def test_a_mark_that_could_not_be_noted_is_reported_too(error: BrokerError) -> None:
    owned, told = noting()
    offsets = owned.commit(T0, None, False)
    assert offsets is not None
    owned.committed(offsets, error, T0)
    assert set(told) == {(P0, False)}


def test_an_owner_that_has_survived_commits_no_mark() -> None:
    owned, told = noting()
    owned.reached({P0: 6})
    assert owned.commit(T0 + SETTLED - 0.1, None, True) == {P0: marked(Mark(0), 6)}
    assert owned.commit(T0 + SETTLED, None, True) == {P0: CommittedOffset(6)}
    assert told == [(P0, False)]


def test_a_mark_that_has_no_room_is_given_up() -> None:
    owned, told = noting(max_metadata=16)
    assert owned.commit(T0, None, True) is None
    assert told[0] == (P0, False)
    assert owned.assignments[P0].crashes.opened


def test_a_partition_that_is_being_revoked_is_committed_without_a_mark() -> None:
    owned, _ = noting()
    owned.committed(owned.commit(T0, None, False) or {}, None, T0)
    owned.revoking([P0])[0].crashes.ends()
    assert owned.commit(T0, [P0], True) == {P0: CommittedOffset(5)}

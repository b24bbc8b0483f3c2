"""What an engine reports of itself, and that it routes each fact to the part that it concerns."""

from __future__ import annotations

import pytest

from flux.core.engine import BATCH, Engine
from flux.core.engine.commands import Stall
from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.engine.verdicts import Move, Pause, Rules
from flux.core.limits.backpressure import FULL
from flux.core.limits.call_limits import CallLimits
from flux.core.ports import CommittedOffset, PollResult
from unit.support.engine_support import AWAY, DENIED, STAGES, T0, T0_MS, Driver, policy
from unit.support.order_support import Ordered


def test_an_engine_names_its_topic_and_partitions() -> None:
    driver = Driver()
    driver.assign(0)
    assert repr(driver.engine) == "<Engine t [<Assignment t[0] working>]>"
    assert driver.engine.partitions == [driver.p0]


def test_engines_of_a_task_share_its_limits_and_one_alone_has_its_own() -> None:
    limits = CallLimits()
    assert Engine(policy(), STAGES[0], None, limits).call_limits is limits
    alone = Engine(policy(rate_limit=1.0), STAGES[0], {"t-g-dlq": 1_000})
    assert alone.call_limits.limited
    assert (alone.limit("t-g-dlq"), alone.limit("t-g-try-1")) == (1_000, None)


def test_the_epoch_relates_the_clock_to_due_times() -> None:
    driver = Driver(1)
    driver.engine.epoch = T0
    driver.now = 0.0
    assert driver.engine.epoch == T0
    driver.assign(0)
    driver.poll(driver.record(0))
    assert driver.engine.deadline(0.0) == 10.0
    assert (driver.engine.waiting, driver.engine.next_due) == (1, (T0 + 10) * 1000)


def test_a_stage_is_idle_when_it_is_empty_and_all_is_committed() -> None:
    driver = Driver()
    driver.assign(0)
    assert driver.engine.idle
    driver.poll(0)
    assert not driver.engine.empty
    run = driver.take()
    assert (list(driver.engine.running), driver.engine.calls, driver.engine.busy_with(run)) == ([run], 1, True)
    assert not driver.engine.quiet
    driver.look()
    assert not driver.engine.busy_with(run)
    driver.work(run)
    assert (driver.engine.empty, driver.engine.quiet, driver.engine.idle) == (True, True, False)
    driver.commit()
    assert driver.engine.idle


def test_a_failed_record_is_reported_until_its_copy_is_written() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    driver.work_all(0)
    assert driver.engine.has_news
    assert (driver.engine.open_forwards, driver.engine.refused) == (1, [])
    driver.write(DENIED)
    [forward] = driver.engine.refused
    assert [(entry.offset, copy) for entry, copy in driver.engine.open()] == [(0, forward)]
    driver.now += 1
    driver.write()
    assert (driver.engine.has_news, driver.engine.open_forwards) == (False, 0)


def test_a_stage_that_left_reports_what_is_open() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    driver.work_all(0)
    driver.engine.stop()
    assert driver.engine.stopping
    assert not driver.engine.left_open
    driver.engine.left_group()
    assert [str(forward) for forward in driver.engine.unforwarded] == ["t[0]@0 to t-g-try-1"]
    driver.engine.commit_abandoned({driver.p0: CommittedOffset(1)}, AWAY)
    assert driver.engine.uncommitted == {driver.p0: CommittedOffset(1)}
    assert driver.engine.left_open


def test_a_call_whose_process_failed_ends_its_run_and_is_called_by_the_next_owner() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    run.index = 1
    assert driver.fail(run, MemoryError()) is Move.STOP
    driver.engine.aborted(run)
    assert (driver.engine.calls, driver.commit()) == (0, {0: CommittedOffset(1)})


def test_a_retry_in_place_is_forwarded_when_its_partition_is_revoked_and_when_the_stage_stops() -> None:
    for stop in (True, False):
        driver = Driver(in_place_retries=1, in_place_wait=60.0)
        driver.assign(0)
        driver.poll(0)
        driver.work_all(0)
        assert driver.write() == []
        if stop:
            driver.engine.stop()
        else:
            driver.engine.revoking([driver.p0])
        assert not driver.engine.drained([driver.p0])
        assert driver.write() == [0]
        assert driver.engine.drained([driver.p0])


def test_a_pause_gives_the_record_back_and_nothing_is_taken() -> None:
    driver = Driver(rules=Rules(pause_on=(ConnectionError,)))
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    assert driver.fail(run, Pause(5.0)) is Move.PAUSE
    driver.engine.call_limits.breaker.pause(run, Pause(), 5.0, 0.0, driver.now)
    driver.engine.paused()
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    driver.now += 5
    assert driver.work(driver.take()) == [0]


def test_while_calls_are_quick_only_the_poller_gets_runs() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    assert driver.engine.take(False, driver.now) is None
    assert driver.engine.take(True, driver.now) is not None


def test_what_a_call_produced_is_settled_later() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    run.index = 1
    driver.engine.finished(run, driver.now)
    assert entry is not None
    assert driver.commit() == {}
    driver.engine.settled(entry, None, driver.now)
    assert driver.commit() == {0: CommittedOffset(1)}


def test_a_turn_has_pauses_resets_and_the_commit() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    driver.work_all()
    driver.engine.polled(PollResult(out_of_range=[driver.p0]), driver.now)
    turn = driver.turn(after=10.0)
    assert (turn.pause, turn.resume, turn.reset) == ((), (), (driver.p0,))
    assert turn.commit == {driver.p0: CommittedOffset(1)}
    assert turn.poll > 0
    driver.engine.committed(turn.commit, None, driver.now)
    assert driver.turn(after=10.0).commit is None


def test_a_lost_partition_is_forgotten_by_all_parts() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    driver.work(driver.take(), 0)
    driver.engine.lost([driver.p0])
    assert (driver.engine.partitions, driver.engine.empty, driver.write()) == ([], True, [])


def test_a_partition_without_progress_is_reported() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0)
    driver.poll(0)
    assert driver.engine.stalled(driver.now) == []
    [stall] = driver.engine.stalled(driver.now + 60)
    assert stall == Stall(stall.text, None, driver.p0)


def test_no_commit_is_due_before_its_interval() -> None:
    driver = Driver(commit_interval=5.0)
    driver.assign(0)
    driver.poll(0)
    driver.work_all()
    assert driver.commit(after=5.0) == {0: CommittedOffset(1)}
    driver.poll(1)
    driver.work_all()
    assert driver.engine.commit(driver.now + 1) is None
    assert driver.engine.commit(driver.now + 1, at_once=True) == {driver.p0: CommittedOffset(2)}


@pytest.mark.parametrize("end", ["revoking", "lost", "stop"])
def test_callers_keep_their_current_call_and_the_rest_is_discarded(end: str) -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    driver.poll(2, 3)
    run = driver.take()
    driver.engine.stop() if end == "stop" else getattr(driver.engine, end)([driver.p0])
    assert run.limit == 1
    driver.work(run)
    assert driver.engine.empty
    assert driver.commit() == ({} if end == "lost" else {0: CommittedOffset(1)})


def test_a_pause_ends_all_runs_after_their_current_calls() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(0, 1, *(driver.record(offset, b"x", 1) for offset in range(2)))
    runs = driver.take(), driver.take()
    driver.engine.paused()
    assert [run.limit for run in runs] == [1, 1]


def test_a_retry_in_place_waits_for_the_end_of_a_pause() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=1.0)
    driver.assign(0)
    driver.poll(0)
    driver.work_all(0)
    driver.now += 1
    run = driver.take()
    assert driver.message(run, 0).attempt == 2
    driver.work(run)
    assert driver.commit() == {0: CommittedOffset(1)}
    driver.engine.revoking([driver.p0])
    assert driver.write() == []


def test_what_a_poll_has_read_without_records_is_committed() -> None:
    driver = Driver()
    driver.assign(0)
    driver.engine.polled(PollResult(reached={driver.p0: 7}), driver.now)
    assert driver.commit() == {0: CommittedOffset(7)}


def test_a_full_stage_does_not_poll_then_pauses_and_later_resumes() -> None:
    driver = Driver()
    driver.assign(0)
    assert driver.turn().poll == BATCH
    driver.poll(*range(FULL))
    assert (driver.turn().poll, driver.turn().pause) == (0, ())
    turn = driver.turn(after=1.0)
    assert (turn.poll, turn.pause, turn.resume) == (BATCH, (driver.p0,), ())
    driver.work_all()
    assert driver.turn().resume == (driver.p0,)


def test_a_turn_waits_until_the_next_record_is_due() -> None:
    driver = Driver(1)
    driver.assign(0)
    driver.poll(driver.record(0, timestamp=T0_MS - 9900))
    driver.commit(after=0.0)
    assert driver.turn().timeout == pytest.approx(0.1, abs=0.001)


def test_a_partition_without_progress_is_reported_with_the_run_that_holds_it() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    assert driver.engine.stalled(driver.now) == []
    [stall] = driver.engine.stalled(driver.now + 60)
    assert (stall.run, stall.about) == (run, driver.p0)


@pytest.mark.parametrize("lost", [False, True])
def test_calls_and_retries_of_other_partitions_go_on_when_one_is_given_up(lost: bool) -> None:
    driver = Driver(in_place_retries=1, in_place_wait=60.0)
    driver.assign(0, 0)
    driver.poll(0, driver.record(0, b"x", 1))
    driver.work_all(0)
    driver.poll(1, 2, *(driver.record(offset, b"y", 1) for offset in (1, 2)))
    runs = {driver.message(run, 0).partition: run for run in (driver.take(), driver.take())}
    limit = runs[1].limit
    if lost:
        driver.engine.lost([driver.p0])
    else:
        driver.engine.revoking([driver.p0])
    assert (runs[0].limit, runs[1].limit) == (1, limit)
    assert driver.write() == ([] if lost else [0])


@pytest.mark.parametrize("stop", [False, True])
def test_a_retry_in_place_that_is_being_made_may_end(stop: bool) -> None:
    driver = Driver(in_place_retries=1, in_place_wait=1.0)
    driver.assign(0)
    driver.poll(0)
    driver.work_all(0)
    driver.now += 1
    run = driver.take()
    if stop:
        driver.engine.stop()
    else:
        driver.engine.revoking([driver.p0])
    assert driver.write() == []
    driver.work(run)
    assert driver.commit() == {0: CommittedOffset(1)}


def test_some_partitions_are_committed_at_once_beside_others() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(0, driver.record(0, b"x", 1))
    driver.work_all()
    assert driver.engine.commit(driver.now, [driver.p0], at_once=True) == {driver.p0: CommittedOffset(1)}
    assert driver.engine.commit(driver.now + 10, [driver.p1]) == {driver.p1: CommittedOffset(1)}


@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_turn_commits_or_ends_a_transaction(exactly_once: bool) -> None:
    driver = Driver(exactly_once=exactly_once)
    driver.assign(0)
    driver.poll(0)
    driver.work_all()
    turn = driver.turn(after=10.0)
    assert (turn.commit is None, turn.transact) == (exactly_once, exactly_once)


def test_a_record_in_doubt_is_taken_alone() -> None:
    driver = Driver(max_crashes=2)
    driver.assign(CommittedOffset(1, OffsetTracker(1).metadata(Mark(1, None, 3))))
    driver.poll(1, 2)
    driver.commit(0)
    assert driver.nothing_to_take()
    driver.commit(0)
    assert driver.work(driver.take()) == [1]


def test_a_turn_looks_again_at_records_that_wait_for_room_in_the_metadata() -> None:
    driver = Ordered(1, max_metadata=0)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 9, None, b"other"), driver.copy(1, 3, 0))
    driver.order.read_to(1, driver.now)
    run = driver.take()
    assert driver.nothing_to_take()
    assert len(driver.order.parked) == 1
    driver.turn()
    assert len(driver.order.parked) == 1
    driver.work(run)
    driver.turn()
    assert len(driver.order.parked) == 0

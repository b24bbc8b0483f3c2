"""A record that becomes due while its poller looks around is not waited for: the next look works it."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest

from flux.consuming import effects as do
from flux.consuming import procedures
from flux.consuming.coordinator import Coordinator
from flux.core.control.standing import Hold
from flux.core.engine import BUSY_REST, IDLE_REST, LEAST_REST, PAUSED_REST, REST
from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.flux_headers import DUE
from flux.core.limits.backpressure import FULL
from flux.core.limits.unacknowledged import MOST_UNACKNOWLEDGED
from flux.core.ports import CommittedOffset, PollResult
from flux.system import OperatingSystem
from unit.support.engine_support import AWAY, DENIED, T0, Driver, record
from unit.support.order_support import Keys, Ordered


class Clock(OperatingSystem):
    """A millisecond passes between two readings."""

    def __init__(self, began: float) -> None:
        self.time = began

    def now(self) -> float:
        self.time += 0.001
        return self.time

    def monotonic(self) -> float:
        return self.now()


def due_in(driver: Driver, offset: int, seconds: float) -> Any:
    at = b"%d" % round((driver.now + seconds) * 1000)
    return record(offset, b"%d" % offset, driver.p0, headers=[(DUE, at)])


def test_a_turn_with_a_record_that_is_due_by_now_polls_for_a_moment_only() -> None:
    driver = Driver(stage=1)
    driver.assign(0)
    driver.poll(due_in(driver, 0, 1.0))
    assert 0 < driver.turn(after=2.0).timeout <= 0.001


def test_no_poll_is_shorter_than_what_clients_count() -> None:
    driver = Driver(stage=1)
    driver.assign(0)
    driver.poll(due_in(driver, 0, 1.0))
    assert driver.turn(after=0.9997).timeout == 0.001


def test_a_poller_does_not_rest_for_what_became_due_since_it_looked() -> None:
    driver = Driver(stage=1)
    driver.assign(0)
    driver.poll(*(due_in(driver, offset, 0.0037 * offset) for offset in range(1, 100)))
    clock = Clock(driver.now)
    coordinator = Coordinator(driver.policy, [driver.engine], cast(Any, None), clock)
    [runtime] = coordinator.runtimes
    procedure = procedures.poll_stage(coordinator, runtime, lambda: clock.time < driver.now + 0.4)
    answer: Any = None
    worked = 0
    try:
        while True:
            effect = procedure.send(answer)
            assert not isinstance(effect, do.Rest), f"after {worked} calls"
            answer = PollResult() if isinstance(effect, do.Poll) else None
            if isinstance(effect, do.Begin):
                effect.run.index = effect.run.limit
                worked += effect.run.index
                coordinator.finished(runtime, effect.run, None)
    except StopIteration:
        pass
    assert worked > 50


def test_callers_are_ready_for_what_the_limits_admit() -> None:
    driver = Driver(rate_limit=1.0)
    driver.assign(0)
    driver.poll(0, 1)
    assert driver.engine.ready(driver.now) == 1
    driver.work(driver.take())
    assert driver.engine.ready(driver.now) == 0
    assert driver.engine.begins_at(driver.now) == pytest.approx(driver.now + 1, abs=0.02)
    driver.engine.stop()
    assert driver.engine.begins_at(driver.now) is None


def test_a_poll_of_a_stage_without_records_is_longer_than_beside_a_call() -> None:
    driver = Driver(commit_interval=50.0)
    driver.assign(0)
    assert driver.turn().timeout == IDLE_REST
    driver.poll(0)
    run = driver.take()
    assert driver.turn().timeout == REST < IDLE_REST
    driver.work(run)
    assert driver.commit(after=60.0) == {0: CommittedOffset(1)}
    assert driver.turn().timeout == IDLE_REST


def test_a_poll_is_short_while_a_partition_is_paused_or_records_can_be_called() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(*range(2 * FULL))
    driver.turn()
    driver.engine.dispatch_mode.slow = True
    driver.work_all()
    [partition] = driver.engine._partitions.of([driver.p0])
    partition.backlogged = FULL  # as if it were still half full
    assert driver.engine._deadlines.rest(driver.now) == PAUSED_REST
    partition.backlogged = 0
    driver.turn()
    driver.poll(*range(2 * FULL, 2 * FULL + 9))
    driver.engine.dispatch_mode.slow = True
    assert driver.turn().timeout == BUSY_REST
    driver.engine.dispatch_mode.slow = False
    assert driver.turn().timeout == LEAST_REST


def test_a_stage_rests_when_all_that_is_left_needs_help() -> None:
    driver = Driver()
    driver.assign(0)
    assert driver.engine.rests(driver.now)
    driver.poll(driver.record(0, b"x"), driver.record(1, b"x"))
    assert not driver.engine.rests(driver.now)
    driver.work(driver.take(), 0, 1)
    assert (driver.engine.empty, driver.engine.quiet, driver.engine.rests(driver.now)) == (False, False, False)
    driver.write(DENIED)
    assert (driver.engine.empty, driver.engine.quiet, driver.engine.rests(driver.now)) == (False, True, True)


def test_a_record_that_waits_for_what_it_produced_will_progress() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index = 1
    driver.engine.finished(run, driver.now)
    assert (driver.engine.empty, driver.engine.quiet, driver.engine.rests(driver.now)) == (False, False, False)
    driver.engine.settled(entry, None, driver.now)
    assert (driver.engine.empty, driver.engine.quiet, driver.engine.rests(driver.now)) == (True, True, True)


def test_a_retry_in_place_is_ready_when_its_wait_is_over() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=1.0)
    driver.assign(0)
    driver.poll(0)
    driver.work(driver.take(), 0)
    assert (driver.engine.ready(T0), driver.engine.begins_at(T0), driver.engine.deadline(T0)) == (0, T0 + 1, T0 + 1)
    assert driver.engine.begins_at(T0, probes=False) == T0 + 1
    assert (driver.engine.empty, driver.engine.rests(T0)) == (False, False)
    assert (driver.engine.ready(T0 + 1), driver.engine.begins_at(T0 + 1)) == (1, None)


def test_calls_are_not_expected_to_begin_when_the_limit_opens_if_there_is_nothing_to_call() -> None:
    driver = Driver(rate_limit=1.0)
    driver.assign(0)
    driver.poll(0)
    assert driver.engine.begins_at(T0) is None
    driver.work(driver.take())
    assert driver.engine.begins_at(T0) is None


def test_a_retry_in_place_that_is_due_waits_for_the_rate_limit() -> None:
    driver = Driver(rate_limit=0.5, in_place_retries=1, in_place_wait=1.0)
    driver.assign(0)
    driver.poll(0)
    driver.work(driver.take(), 0)
    assert driver.engine.begins_at(T0) == T0 + 1
    assert driver.engine.begins_at(T0 + 1) == pytest.approx(T0 + 2, abs=0.02)


def test_a_record_that_waits_sets_the_deadline_until_it_is_due() -> None:
    driver = Driver(stage=1)
    driver.now = 100.0
    driver.engine.epoch = T0
    driver.assign(0)
    driver.poll(record(0, b"x", driver.p0, headers=[(DUE, b"%d" % round((T0 + 110) * 1000))]))
    assert driver.engine.deadline(100.0) == 110
    assert driver.engine.deadline(110.0) is None
    assert not driver.engine.rests(100.0)
    driver.engine.stop()
    assert driver.engine.deadline(100.0) is None


def test_a_forward_that_could_not_be_written_and_a_commit_set_the_deadline() -> None:
    driver = Driver(commit_interval=5.0)
    driver.assign(0)
    driver.turn()
    driver.poll(0, 1)
    driver.work(driver.take(), 0)
    assert driver.engine.deadline(T0) == T0 + 5
    driver.write(AWAY)
    assert driver.engine.deadline(T0) == T0 + 1


def test_a_blocked_stage_does_not_wait_for_records_to_become_due() -> None:
    driver = Driver(stage=1, commit_interval=50.0)
    driver.assign(0)
    driver.turn()
    driver.poll(due_in(driver, 0, -1.0), due_in(driver, 1, 0.5))
    driver.work(driver.take(), 0)
    driver.write(AWAY)
    assert driver.engine.deadline(T0) == T0 + 1


@pytest.mark.parametrize(("late", "rest"), [(-0.1, 0.1), (0.0, BUSY_REST), (1.0, BUSY_REST)])
def test_a_poll_ends_at_the_deadline_and_is_short_beyond_it(late: float, rest: float) -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    driver.work(driver.take(), 0)
    driver.write(AWAY)
    at = driver.engine.deadline(T0)
    assert at is not None
    assert driver.engine._deadlines.rest(at + late) == pytest.approx(rest)


@pytest.mark.parametrize(("exactly_once", "rest"), [(False, BUSY_REST), (True, REST)])
def test_a_poll_is_short_while_copies_are_written_unless_in_transactions(exactly_once: bool, rest: float) -> None:
    driver = Driver(exactly_once=exactly_once, commit_interval=50.0)
    driver.assign(0)
    driver.turn()
    driver.engine.transactions.seal(T0)
    driver.poll(0)
    driver.work(driver.take(), 0)
    assert driver.engine._deadlines.rest(T0) == rest
    driver.engine.writes(T0)
    assert driver.engine._deadlines.rest(T0) == rest


def rest_at(driver: Driver, now: float) -> float:
    return driver.engine._deadlines.rest(now)


def test_polls_for_copies_that_are_written_are_longer_once_no_answer_has_come_for_a_second() -> None:
    driver = Driver(commit_interval=50.0)
    driver.assign(0)
    driver.turn()
    driver.poll(0, 1)
    driver.work_all(0, 1)
    first, second = driver.engine.writes(T0)
    assert [rest_at(driver, T0 + after) for after in (0, 0.99, 1.0, 30.0)] == [BUSY_REST, BUSY_REST, REST, REST]
    driver.engine.written(first, T0 + 31)
    assert [rest_at(driver, T0 + after) for after in (31, 31.9, 32.1)] == [BUSY_REST, BUSY_REST, REST]
    driver.engine.written(second, T0 + 40)
    assert rest_at(driver, T0 + 40) == REST
    driver.poll(2)
    driver.work_all(2)
    [third] = driver.engine.writes(T0 + 45)
    assert rest_at(driver, T0 + 45) == BUSY_REST, "the answer to the first one of these is not late yet"
    driver.engine.unwritten(third, DENIED, T0 + 45)
    assert rest_at(driver, T0 + 45) == REST


def test_polls_for_a_commit_that_calls_wait_for_are_longer_once_none_has_succeeded_for_a_second() -> None:
    driver = Driver(max_crashes=2, concurrency=2)
    driver.assign(CommittedOffset(0, OffsetTracker(0).metadata(Mark(0))))
    driver.poll(*range(5))
    for at in (0, 0.5, 0.9):
        offsets = driver.engine.commit(T0 + at, at_once=True)
        assert offsets
        assert rest_at(driver, T0 + at) == BUSY_REST
        driver.engine.committed(offsets, AWAY, T0 + at)
    assert driver.engine.commit(T0 + 1, at_once=True)
    assert rest_at(driver, T0 + 1) > BUSY_REST


def test_polls_for_what_was_produced_are_longer_once_no_answer_has_come_for_a_second() -> None:
    driver = Driver(commit_interval=50.0)
    driver.assign(0)
    driver.turn()
    driver.poll(*range(MOST_UNACKNOWLEDGED))
    run = driver.take()
    entries = []
    for index in range(MOST_UNACKNOWLEDGED):
        entries.append(driver.engine.produced(run, index, driver.message(run, index)))
        run.index = index + 1
    driver.engine.finished(run, driver.now)
    assert [rest_at(driver, T0 + after) for after in (0, 0.9, 1.1)] == [BUSY_REST, BUSY_REST, REST]
    assert entries[0] is not None
    driver.engine.settled(entries[0], None, T0 + 2)
    assert rest_at(driver, T0 + 2) == BUSY_REST


def test_a_partition_that_has_to_be_reset_will_progress() -> None:
    driver = Driver()
    driver.assign(0)
    driver.engine.polled(PollResult(out_of_range=[driver.p0]), T0)
    assert (driver.engine.empty, driver.engine.rests(T0)) == (False, False)


def test_a_stage_that_somebody_has_paused_starts_no_call_and_waits_for_no_time() -> None:
    driver = Driver(stage=1)
    driver.assign(0)
    driver.poll(due_in(driver, 0, 0.5), due_in(driver, 1, -1.0))
    driver.engine.call_limits.held[1] = Hold("ada", "", 0.0, math.inf)
    assert driver.nothing_to_take()
    assert driver.engine.ready(driver.now) == 0
    assert driver.engine.begins_at(driver.now) is None
    driver.engine.call_limits.held = {0: Hold("ada", "", 0.0, math.inf)}
    assert driver.engine.ready(driver.now)


def test_a_stage_whose_records_wait_for_a_commit_is_not_quiet_and_looks_often() -> None:
    driver = Driver(max_crashes=2)
    driver.assign(0)
    driver.poll(0)
    assert driver.engine.awaits_commit()
    assert not driver.engine.quiet
    assert not driver.engine.rests(driver.now)
    assert driver.turn().timeout <= BUSY_REST
    driver.engine.stop()
    assert driver.engine.quiet


def test_a_full_stage_with_a_window_of_records_to_call_does_not_poll() -> None:
    driver = Driver(max_crashes=2, concurrency=2)
    driver.assign(CommittedOffset(0, OffsetTracker(0).metadata(Mark(0))))
    driver.poll(*range(FULL))
    turn = driver.turn()
    while not driver.engine.ready(driver.now):
        assert turn.timeout <= BUSY_REST
        assert turn.commit
        driver.engine.committed(turn.commit, None, driver.now)
        turn = driver.turn()
    assert driver.engine.awaits_commit()
    assert (turn.patient, turn.poll) == (True, 0)


def test_a_full_stage_polls_while_its_calls_wait_for_a_commit() -> None:
    driver = Driver(max_crashes=2)
    driver.assign(0)
    driver.poll(*range(FULL))
    procedure = procedures.cycle(driver.engine, lambda: driver.now)
    commit = next(procedure)
    assert isinstance(commit, do.StartCommit)
    # a wait first, in which an event loop may end the commit, then a poll, in which librdkafka reports its end
    assert [next(procedure) for _ in range(3)] == [do.Write(), do.Rest(BUSY_REST), do.Poll(1, 0.0)]
    driver.engine.committed(commit.offsets, None, driver.now)
    assert [*procedures.cycle(driver.engine, lambda: driver.now)] == [do.Write(), do.Rest(LEAST_REST)]
    assert driver.work_all() == list(range(FULL))
    assert not driver.turn().patient


def test_a_blocked_stage_wants_nothing_alone() -> None:
    driver = Driver(max_crashes=2)
    driver.assign(CommittedOffset(1, OffsetTracker(1).metadata(Mark(1))))
    driver.poll(1)
    assert driver.engine.wants_alone(driver.now)
    assert driver.engine.ready(driver.now) == 0
    driver.commit(0)
    assert driver.engine.ready(driver.now) == 1
    driver.engine.stop()
    assert not driver.engine.wants_alone(driver.now)


def test_an_open_record_comes_with_its_forward() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    driver.work_all(0)
    [(entry, forward)] = driver.engine.open()
    assert forward is not None
    assert forward.entry is entry


def test_a_stage_whose_rate_is_used_up_keeps_nobody_waiting_for_a_call_alone_but_during_one() -> None:
    driver = Driver(max_crashes=2, rate_limit=0.1)
    driver.assign(CommittedOffset(1, OffsetTracker(1).metadata(Mark(1, None, 9))))
    driver.poll(1, 2)
    driver.commit(0)
    assert driver.nothing_to_take()
    driver.commit(0)
    run = driver.take()
    assert driver.engine.wants_alone(driver.now)
    driver.work(run)
    offsets = driver.turn().commit
    assert offsets
    driver.engine.committed(offsets, None, driver.now)
    assert not driver.engine.wants_alone(driver.now)
    driver.now += 10.0
    assert driver.engine.wants_alone(driver.now)


def test_a_poll_is_short_while_an_entry_is_to_be_read_back_or_records_wait_for_their_key() -> None:
    driver = Ordered()
    driver.assign(0)
    driver.poll(driver.record(0))
    driver.work_all(0)
    driver.stored(*driver.writes())
    assert driver.engine.turn(driver.now).timeout <= BUSY_REST
    assert driver.engine.turn(driver.now + 1.1).timeout > BUSY_REST
    driver.read()
    assert driver.engine.turn(driver.now + 1.1).timeout <= BUSY_REST, "the record moves now"
    keys = Keys()
    keys.set(2)
    version = keys.set(3)
    other = Ordered(1, keys)
    other.assign(0)
    other.read()
    other.poll(other.copy(0, 3, version))
    other.work_all()
    assert other.engine.turn(other.now).timeout <= PAUSED_REST

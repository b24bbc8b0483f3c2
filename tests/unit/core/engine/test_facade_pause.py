"""Outages: what a pause keeps from being called, what it gives back, and how one record probes its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flux.core.engine.forwards import Failure
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Expired, Move, Pause, Reject, Undecodable
from flux.core.limits.call_limits import CallLimits
from flux.core.limits.failure_rate import FailureRate
from flux.core.ports import CommittedOffset
from unit.support.engine_support import P1, T0, Driver

OUTAGE = Pause(reason="away")


class Paused(Driver):
    """A driver that does of a pause what a coordinator does: it opens the circuit breaker, and notifies the engines."""

    def __init__(self, *stages: int, **settings: Any) -> None:
        super().__init__(stages[0] if stages else 0, **settings)
        self.breaker = self.engine.call_limits.breaker
        self.assign(0, 0)

    def find_outage(self, run: Run, seconds: float | None = None, error: BaseException = OUTAGE) -> bool:
        """The call that the run is at does, and its caller goes on to the end of what is left of the run."""
        assert self.fail(run, error) is Move.PAUSE
        news = self.breaker.pause(run, error, seconds, 0.0, self.now)
        self.engine.paused()
        run.index += 1
        assert run.index >= run.limit
        self.engine.finished(run, self.now)
        return news


def called(driver: Driver, run: Run) -> list[tuple[int, int]]:
    """(offset, attempt) of the calls that a run may make."""
    messages = [driver.message(run, index) for index in range(run.index, run.limit)]
    return [(message.offset, message.attempt) for message in messages]


def test_a_pause_moves_nothing_and_counts_no_attempt() -> None:
    driver = Paused()
    driver.poll(0, 1, 2)
    driver.find_outage(driver.take())
    assert driver.nothing_to_take()
    assert driver.write() == []
    assert driver.engine.stats.failed == 0
    driver.now += 1.01
    assert called(driver, driver.take()) == [(0, 1)]


def test_calls_before_the_one_that_found_it_are_done() -> None:
    driver = Paused()
    driver.poll(0, 1, 2)
    run = driver.take()
    run.index = 1
    driver.find_outage(run)
    assert driver.commit() == {0: CommittedOffset(1)}


def test_the_probe_is_one_record_and_the_rest_waits_for_its_end() -> None:
    driver = Paused()
    driver.poll(0, 1, 2)
    driver.find_outage(driver.take())
    driver.now += 1.01
    probe = driver.take()
    assert called(driver, probe) == [(0, 1)]
    driver.now += 1000
    assert driver.nothing_to_take()
    assert not driver.engine.ready(driver.now)
    assert driver.work(probe) == [0]
    assert driver.work_all() == [1, 2]


@pytest.mark.parametrize("error", [ValueError("bad"), Reject("no")])
def test_a_probe_that_fails_for_a_reason_of_its_record_ends_the_pause(error: Exception) -> None:
    driver = Paused()
    driver.poll(0, 1)
    driver.find_outage(driver.take())
    driver.now += 1.01
    probe = driver.take()
    driver.fail(probe, error)
    probe.index += 1
    driver.engine.finished(probe, driver.now)
    assert not driver.breaker.paused
    assert driver.write() == [0]
    assert driver.work_all() == [1]


@pytest.mark.parametrize("error", [Expired("old"), Undecodable("what?")])
def test_a_record_that_is_not_called_is_no_probe(error: Exception) -> None:
    driver = Paused()
    driver.poll(0, 1, 2)
    driver.find_outage(driver.take())
    driver.now += 1.01
    refused = driver.take()
    driver.fail(refused, error)
    refused.index += 1
    driver.engine.finished(refused, driver.now)
    assert driver.breaker.paused
    probe = driver.take()  # the next one is, at once
    assert called(driver, probe) == [(1, 1)]
    assert driver.nothing_to_take()
    driver.work(probe)
    assert not driver.breaker.paused


def test_a_probe_whose_process_failed_tells_nothing_of_the_outage() -> None:
    driver = Paused()
    driver.poll(0, 1)
    driver.find_outage(driver.take())
    driver.now += 1.01
    driver.engine.aborted(driver.take())
    assert driver.breaker.paused


def test_pauses_double_up_to_a_minute_and_begin_anew_after_a_good_call() -> None:
    driver = Paused()
    driver.poll(0, 1)
    driver.find_outage(driver.take())
    waits = []
    for _ in range(8):
        opens = driver.breaker.opens_at(driver.now)
        assert opens is not None
        waits.append(round(opens - driver.now, 3))
        driver.now = opens + 0.001
        assert driver.find_outage(driver.take())
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    driver.now += 61
    driver.work_all()
    driver.poll(2)
    driver.find_outage(driver.take())
    assert driver.breaker.opens_at(driver.now) == pytest.approx(driver.now + 1, abs=0.01)


def test_the_deadline_is_the_time_of_the_probe_while_there_is_something_to_probe_with() -> None:
    driver = Paused()
    driver.poll(0)
    driver.find_outage(driver.take())
    assert driver.engine.deadline(driver.now) == pytest.approx(T0 + 1, abs=0.001)
    assert not driver.engine.ready(driver.now)
    empty = Paused()
    empty.poll(0)
    run = empty.take()
    empty.breaker.pause(None, OUTAGE, None, 0.0, empty.now)
    empty.work(run)
    assert empty.engine.begins_at(empty.now) is None


def test_a_call_in_flight_ends_and_counts_and_goes_no_further() -> None:
    driver = Paused()
    driver.poll(*(driver.record(offset, b"a") for offset in range(3)))
    slow = driver.take()
    driver.breaker.pause(None, OUTAGE, None, 0.0, driver.now)  # another partition's call found it
    driver.engine.paused()
    slow.index += 1
    assert slow.index == slow.limit
    driver.engine.finished(slow, driver.now)
    assert driver.breaker.paused
    assert driver.commit()[0] == CommittedOffset(1)
    driver.now += 1.01
    assert called(driver, driver.take()) == [(1, 1)]


def test_what_is_given_back_stays_before_others_of_its_key() -> None:
    driver = Paused()
    driver.poll(*(driver.record(offset, b"a") for offset in range(2)))
    driver.engine.dispatch_mode.slow = True
    driver.find_outage(driver.take())
    driver.poll(driver.record(2, b"a"))
    driver.now += 1.01
    assert driver.work_all() == [0, 1, 2]


def test_what_waits_in_place_waits_for_the_end_of_the_pause_instead() -> None:
    driver = Paused(in_place_retries=3, in_place_wait=60)
    driver.poll(*(driver.record(offset, key) for offset, key in enumerate((b"a", b"b"))))
    driver.engine.dispatch_mode.slow = True
    driver.work(driver.take(), 0)
    driver.find_outage(driver.take())
    driver.now += 1.01
    probe = driver.take()
    assert called(driver, probe) == [(1, 1)]
    driver.work(probe)
    assert called(driver, driver.take()) == [(0, 2)]


def test_a_call_that_fails_during_a_pause_is_tried_in_place_after_it() -> None:
    driver = Paused(in_place_retries=3, in_place_wait=0.1)
    driver.poll(driver.record(0, b"a"), driver.record(0, b"a", 1))
    first, second = driver.take(), driver.take()
    driver.find_outage(first)
    assert driver.fail(second) is Move.AGAIN
    second.index += 1
    driver.engine.finished(second, driver.now)
    driver.now += 0.5
    assert driver.nothing_to_take()
    assert driver.write() == []
    driver.now += 1
    probe = driver.take()
    assert driver.message(probe, 0).partition == 0
    driver.work(probe)
    assert called(driver, driver.take()) == [(0, 2)]


def test_a_probe_that_fails_for_a_reason_of_its_record_is_tried_in_place() -> None:
    driver = Paused(in_place_retries=1, in_place_wait=0.1)
    driver.poll(0)
    driver.find_outage(driver.take())
    driver.now += 1.01
    probe = driver.take()
    assert driver.fail(probe) is Move.AGAIN
    probe.index += 1
    driver.engine.finished(probe, driver.now)
    assert not driver.breaker.paused
    driver.now += 0.1
    assert called(driver, driver.take()) == [(0, 2)]


def test_a_revoked_partition_takes_what_was_given_back_along() -> None:
    driver = Paused()
    driver.poll(driver.record(0, b"a"), driver.record(0, b"a", 1))
    driver.find_outage(driver.take())
    driver.engine.revoking([driver.p0])
    assert driver.engine.drained([driver.p0])
    driver.engine.revoked([driver.p0])
    driver.now += 1.01
    assert driver.message(driver.take(), 0).partition == P1.partition


def test_an_outage_found_while_its_partition_is_given_up_leaves_the_record_to_the_next_owner() -> None:
    driver = Paused()
    driver.poll(0, 1)
    run = driver.take()
    driver.engine.revoking([driver.p0])
    driver.find_outage(run)
    assert driver.engine.drained([driver.p0])
    assert driver.engine.commit(driver.now, [driver.p0], at_once=True) is None
    assert driver.write() == []


def test_a_lost_partition_during_the_probe_leaves_the_pause_to_the_next_one() -> None:
    driver = Paused()
    driver.poll(driver.record(0, b"a"), driver.record(0, b"a", 1))
    driver.find_outage(driver.take())
    driver.now += 1.01
    probe = driver.take()
    driver.engine.lost([driver.p0])
    driver.find_outage(probe)
    driver.now += 2.01
    assert driver.message(driver.take(), 0).partition == 1


def test_a_stop_while_paused_has_nothing_to_wait_for() -> None:
    driver = Paused(in_place_retries=1, in_place_wait=60)
    driver.poll(0, 1, 2)
    driver.find_outage(driver.take())
    driver.engine.stop()
    assert driver.engine.quiet
    assert driver.engine.deadline(driver.now) is None


def test_what_a_call_produced_may_find_the_outage_after_it_returned() -> None:
    driver = Paused()
    driver.poll(0)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.engine.settled(entry, Failure(OUTAGE), driver.now) is Move.PAUSE
    driver.breaker.pause(None, OUTAGE, None, 0.0, driver.now)
    driver.engine.paused()
    assert driver.nothing_to_take()
    driver.now += 1.01
    assert called(driver, driver.take()) == [(0, 1)]


def test_all_stages_of_a_task_have_one_circuit_breaker() -> None:
    limits = CallLimits()
    stages: Sequence[Driver] = [Paused(call_limits=limits), Paused(1, call_limits=limits)]
    for driver in stages:
        driver.poll(driver.record(0, b"a", headers=[("flux-due", b"1")]))
    main, retry = stages
    run = main.take()
    main.fail(run, OUTAGE)
    limits.breaker.pause(run, OUTAGE, None, 0.0, main.now)
    for driver in stages:
        driver.engine.paused()
    assert retry.nothing_to_take()
    retry.now += 1.01
    probe = retry.take()
    main.now += 1.01
    assert main.nothing_to_take()
    retry.work(probe)
    main.engine.finished(run, main.now)
    assert main.work_all() == [0]


# ---- pause_when


def of_failures(failures: int, **settings: Any) -> Paused:
    """Pauses from so many failures among the last ten calls on."""
    return Paused(pause_when=FailureRate(failures / 10, of=10), **settings)


NO = ValueError("no")


def paused_by(driver: Paused, run: Run) -> None:
    driver.find_outage(run, error=NO)


def failed(driver: Driver, run: Run) -> None:
    """The current call of the run fails, and its record is moved."""
    assert driver.fail(run, NO) is Move.NEXT
    run.index += 1


def test_with_too_many_failures_the_next_one_is_an_outages() -> None:
    driver = of_failures(3)
    driver.poll(*range(20))
    run = driver.take()
    failed(driver, run)
    run.index += 6
    failed(driver, run)
    paused_by(driver, run)
    assert driver.engine.stats.failed == 2
    assert driver.write() == [0, 7]
    driver.now += 1.01
    assert called(driver, driver.take()) == [(8, 1)]


def test_as_many_failures_among_more_calls_are_the_records_own() -> None:
    driver = of_failures(3)
    driver.poll(*range(40))
    run = driver.take()
    for _ in range(8):
        failed(driver, run)
        run.index += 4
    assert run.index == 40


def test_calls_of_other_runs_count_before_it_pauses() -> None:
    driver = of_failures(3)
    driver.poll(*(driver.record(offset, b"a", 0) for offset in range(3)))
    driver.poll(*(driver.record(offset, b"b", 1) for offset in range(8)))
    first, second = driver.take(), driver.take()
    failed(driver, first)
    failed(driver, first)
    second.index = 8
    failed(driver, first)


def test_failures_in_flight_when_it_pauses_move_nothing() -> None:
    driver = of_failures(1)
    driver.poll(driver.record(0, b"a"), driver.record(0, b"a", 1))
    first, second = driver.take(), driver.take()
    paused_by(driver, first)
    paused_by(driver, second)
    assert driver.write() == []


def test_an_outage_that_the_call_found_is_not_counted() -> None:
    driver = of_failures(2)
    driver.poll(*range(3))
    driver.find_outage(driver.take())
    driver.now += 1.01
    failed(driver, (probe := driver.take()))
    driver.engine.finished(probe, driver.now)
    assert not driver.breaker.paused


def test_a_call_that_fails_while_the_task_is_paused_by_another_reason_is_its_own() -> None:
    driver = of_failures(1)
    driver.poll(driver.record(0, b"a"), driver.record(0, b"a", 1))
    first, second = driver.take(), driver.take()
    driver.find_outage(first)
    failed(driver, second)


def test_records_that_are_too_old_do_not_count() -> None:
    driver = of_failures(1)
    driver.poll(0)
    assert driver.fail(driver.take(), Expired("old")) is Move.DEAD


def test_a_record_that_fails_three_probes_in_a_row_is_moved_and_the_pause_goes_on() -> None:
    driver = of_failures(1)
    driver.poll(0, 1)
    paused_by(driver, driver.take())
    for _ in range(2):
        driver.now += 70
        paused_by(driver, driver.take())
    driver.now += 70
    probe = driver.take()
    failed(driver, probe)
    driver.engine.finished(probe, driver.now)
    assert driver.write() == [0]
    assert driver.breaker.paused
    assert str(driver.breaker.error) == "4 of the last 4 calls failed, the last with ValueError: no"
    driver.now += 70
    probe = driver.take()
    assert called(driver, probe) == [(1, 1)]
    driver.work(probe)
    assert not driver.breaker.paused
    assert not driver.engine.call_limits.failure_count.paused


def test_what_calls_produced_counts_as_their_success() -> None:
    driver = of_failures(3)
    driver.poll(*range(40))
    run = driver.take()
    for _ in range(8):
        failed(driver, run)
        for _ in range(4):
            driver.engine.produced(run, run.index, driver.message(run, run.index))
            run.index += 1
    assert run.index == 40

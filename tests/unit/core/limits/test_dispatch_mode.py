"""When calls count as slow, and when as quick again."""

from __future__ import annotations

import pytest

from flux.core.engine.runs import Run
from flux.core.engine.slice_runs import SliceRun
from flux.core.engine.slices import Slice
from flux.core.limits.dispatch_mode import CHECK_INTERVAL, CHUNK, LEAST_PROGRESS, QUICK, STANDSTILL, DispatchMode
from unit.support.engine_support import T0, assignment, record


def run(calls: int = 1000, started: float = T0) -> Run:
    return SliceRun(assignment(), Slice([record(offset) for offset in range(calls)], calls), started)


def on_time(dispatch_mode: DispatchMode, number: int, *runs: Run) -> list[Run]:
    return dispatch_mode.stuck(runs, T0 + number * CHECK_INTERVAL)


def test_calls_are_quick_until_a_run_is_stuck() -> None:
    dispatch_mode = DispatchMode()
    assert (dispatch_mode.slow, dispatch_mode.chunk) == (False, CHUNK)
    one = run()
    on_time(dispatch_mode, 1)
    assert on_time(dispatch_mode, 2, one) == [one]
    assert (dispatch_mode.slow, dispatch_mode.chunk) == (True, 1)


def test_a_stuck_run_is_named_once() -> None:
    dispatch_mode, one = DispatchMode(), run()
    on_time(dispatch_mode, 1)
    on_time(dispatch_mode, 2, one)
    assert [on_time(dispatch_mode, number, one) for number in range(3, 20)] == [[]] * 17


def test_a_run_that_gets_on_is_not_stuck() -> None:
    dispatch_mode, one = DispatchMode(), run()
    for number in range(1, 20):
        one.index += LEAST_PROGRESS
        assert on_time(dispatch_mode, number, one) == []
    assert not dispatch_mode.slow


def test_a_run_that_has_just_begun_or_has_ended_is_not_stuck() -> None:
    dispatch_mode, new, ended = DispatchMode(), run(started=T0 + 2 * CHECK_INTERVAL), run(3)
    ended.index = 3
    on_time(dispatch_mode, 1)
    assert on_time(dispatch_mode, 2, new, ended) == []


def test_a_watcher_that_is_late_itself_believes_only_a_standstill() -> None:
    dispatch_mode, slow, still = DispatchMode(), run(), run()
    for number in range(1, STANDSTILL + 1):
        slow.index += 1
        found = dispatch_mode.stuck([slow, still], T0 + number * 10 * CHECK_INTERVAL)
        assert found == ([still] if number == STANDSTILL else [])


def test_runs_behind_those_that_are_not_stuck_are_checked_too() -> None:
    dispatch_mode = DispatchMode()
    known, ended, new, stuck = run(), run(3), run(started=T0 + 2 * CHECK_INTERVAL), run()
    ended.index = 3
    on_time(dispatch_mode, 0)
    on_time(dispatch_mode, 1, known)
    assert on_time(dispatch_mode, 2, known, ended, new, stuck) == [stuck]


def test_a_run_is_checked_after_one_interval_and_a_watcher_is_late_beyond_one_and_a_half() -> None:
    assert len(DispatchMode().stuck([run(started=0.0)], CHECK_INTERVAL)) == 1
    assert len(DispatchMode().stuck([run(started=0.0)], 1.5 * CHECK_INTERVAL)) == 1
    assert DispatchMode().stuck([run(started=0.0)], 1.6 * CHECK_INTERVAL) == []


def slowed(times: int = 1) -> DispatchMode:
    """Each time that calls were quick again, one was stuck soon."""
    dispatch_mode = DispatchMode()
    on_time(dispatch_mode, 1)
    for number in range(times):
        while dispatch_mode.slow:
            dispatch_mode.took(0.0, 1)
        one = run(started=T0 + 2 * number * CHECK_INTERVAL)
        on_time(dispatch_mode, 2 * number + 1)
        assert on_time(dispatch_mode, 2 * number + 2, one) == [one]
    return dispatch_mode


def test_one_slow_call_in_a_long_while_is_soon_forgotten() -> None:
    dispatch_mode = slowed()
    for _ in range(48):
        dispatch_mode.took(QUICK, 1)
    assert not dispatch_mode.slow
    for _ in range(20):
        dispatch_mode.took(0.0, 1000)
    assert quick_calls_to_end(dispatch_mode) == 48


@pytest.mark.parametrize("calm", [0, 19_999])
def test_the_next_slow_call_after_fewer_takes_twice_as_many_quick_ones(calm: int) -> None:
    dispatch_mode = slowed()
    dispatch_mode.took(0.0, 48)
    dispatch_mode.took(0.0, calm)
    assert quick_calls_to_end(dispatch_mode) == 96


def quick_calls_to_end(dispatch_mode: DispatchMode) -> int:
    """A run is stuck; then calls are quick. Returns how many end the slow mode."""
    on_time(dispatch_mode, 5)
    on_time(dispatch_mode, 6, run(started=T0 + 4 * CHECK_INTERVAL))
    calls = 0
    while dispatch_mode.slow:
        dispatch_mode.took(QUICK, 1)
        calls += 1
    return calls


def test_the_more_calls_are_quick_the_more_are_taken_at_once_until_one_caller_makes_all() -> None:
    dispatch_mode = slowed(10)
    chunks = [dispatch_mode.chunk]
    while dispatch_mode.slow:
        dispatch_mode.took(QUICK * dispatch_mode.chunk, dispatch_mode.chunk)
        chunks.append(dispatch_mode.chunk)
        assert len(chunks) < 1000
    assert chunks[:16] == [1] * 16
    assert chunks == sorted(chunks)
    assert chunks[-1] == CHUNK


def test_a_slow_call_now_and_then_leaves_the_others_taken_by_many_at_once() -> None:
    dispatch_mode = slowed(10)
    for _ in range(100):
        calls = 0
        while calls < 1000:
            calls += dispatch_mode.chunk
            dispatch_mode.took(QUICK * dispatch_mode.chunk, dispatch_mode.chunk)
        dispatch_mode.took(1.0, dispatch_mode.chunk)
        assert dispatch_mode.slow
    assert dispatch_mode.chunk > CHUNK // 2


def test_one_slow_call_in_two_is_taken_one_at_a_time() -> None:
    dispatch_mode = slowed(10)
    for _ in range(1000):
        dispatch_mode.took(QUICK, 1)
        dispatch_mode.took(1.0, 1)
    assert (dispatch_mode.slow, dispatch_mode.chunk) == (True, 1)


@pytest.mark.parametrize(("progress", "found"), [(LEAST_PROGRESS - 1, True), (LEAST_PROGRESS, False)])
def test_a_run_is_stuck_that_has_made_too_few_calls_since_the_check_before(progress: int, found: bool) -> None:
    dispatch_mode, one = DispatchMode(), run()
    one.index = 500
    on_time(dispatch_mode, 1)
    on_time(dispatch_mode, 0, one)
    one.seen, one.index = 500, 500 + progress
    assert (on_time(dispatch_mode, 1, one) == [one]) is found


def test_only_checks_in_a_row_without_progress_are_a_standstill() -> None:
    dispatch_mode, one = DispatchMode(), run()
    for number in range(1, 4 * STANDSTILL):
        if number % STANDSTILL == 0:
            one.index += 1
        assert dispatch_mode.stuck([one], T0 + number * 10 * CHECK_INTERVAL) == []


def test_a_run_that_seems_to_begin_later_began_now() -> None:
    dispatch_mode, one = DispatchMode(), run(started=T0 + 3600)
    on_time(dispatch_mode, 1, one)
    assert one.started == T0 + CHECK_INTERVAL
    on_time(dispatch_mode, 2)
    assert on_time(dispatch_mode, 3, one) == [one]


def test_each_sixteen_quick_calls_are_one_record_more_at_once() -> None:
    dispatch_mode = slowed(10)
    chunks = []
    for calls in (15, 1, 15, 1):
        dispatch_mode.took(QUICK * calls, calls)
        chunks.append(dispatch_mode.chunk)
    dispatch_mode.took(QUICK * 2 + 0.0001, 2)
    assert [*chunks, dispatch_mode.chunk] == [1, 2, 2, 3, 2]


def test_a_run_has_the_time_at_which_a_check_saw_its_call_first() -> None:
    dispatch_mode, one, stuck = DispatchMode(), run(), run()
    seen = []
    for number, index in enumerate((0, 0, 15, 15, 40), 1):
        one.index = index
        on_time(dispatch_mode, number, one, stuck)
        seen.append(round((one.moved - T0) / CHECK_INTERVAL))
    assert seen == [0, 0, 3, 3, 5]
    assert stuck.moved == T0

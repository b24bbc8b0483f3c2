"""When calls count as slow, and when as quick again."""

from __future__ import annotations

from engine_support import T0, assignment, record

from flux.core.engine.assignment import Slice
from flux.core.engine.runs import Run, SliceRun
from flux.core.limits.dispatch_mode import CHUNK, LEAST_PROGRESS, LOOK, QUICK, STANDSTILL, Pace


def run(calls: int = 1000, started: float = T0) -> Run:
    return SliceRun(assignment(), Slice([record(offset) for offset in range(calls)], calls), started)


def on_time(pace: Pace, number: int, *runs: Run) -> list[Run]:
    return pace.stuck(runs, T0 + number * LOOK)


def test_calls_are_quick_until_a_run_is_stuck() -> None:
    pace = Pace()
    assert (pace.slow, pace.chunk) == (False, CHUNK)
    one = run()
    on_time(pace, 1)
    assert on_time(pace, 2, one) == [one]
    assert (pace.slow, pace.chunk) == (True, 1)


def test_a_stuck_run_is_named_once() -> None:
    pace, one = Pace(), run()
    on_time(pace, 1)
    on_time(pace, 2, one)
    assert [on_time(pace, number, one) for number in range(3, 20)] == [[]] * 17


def test_a_run_that_gets_on_is_not_stuck() -> None:
    pace, one = Pace(), run()
    for number in range(1, 20):
        one.index += LEAST_PROGRESS
        assert on_time(pace, number, one) == []
    assert not pace.slow


def test_a_run_that_has_just_begun_or_has_ended_is_not_stuck() -> None:
    pace, new, ended = Pace(), run(started=T0 + 2 * LOOK), run(3)
    ended.index = 3
    on_time(pace, 1)
    assert on_time(pace, 2, new, ended) == []


def test_a_watcher_that_is_late_itself_believes_only_a_standstill() -> None:
    pace, slow, still = Pace(), run(), run()
    for number in range(1, STANDSTILL + 1):
        slow.index += 1
        found = pace.stuck([slow, still], T0 + number * 10 * LOOK)
        assert found == ([still] if number == STANDSTILL else [])


def slowed(times: int = 1) -> Pace:
    """Each time that calls were quick again, one was stuck soon."""
    pace = Pace()
    on_time(pace, 1)
    for number in range(times):
        while pace.slow:
            pace.took(0.0, 1)
        one = run(started=T0 + 2 * number * LOOK)
        on_time(pace, 2 * number + 1)
        assert on_time(pace, 2 * number + 2, one) == [one]
    return pace


def test_one_slow_call_in_a_long_while_is_soon_forgotten() -> None:
    pace = slowed()
    for _ in range(48):
        pace.took(QUICK, 1)
    assert not pace.slow
    pace.took(0.0, 100_000)
    on_time(pace, 5)
    on_time(pace, 6, run(started=T0 + 4 * LOOK))
    assert pace.slow
    for _ in range(48):
        pace.took(QUICK, 1)
    assert not pace.slow


def test_the_more_calls_are_quick_the_more_are_taken_at_once_until_one_caller_makes_all() -> None:
    pace = slowed(10)
    chunks = [pace.chunk]
    while pace.slow:
        pace.took(QUICK * pace.chunk, pace.chunk)
        chunks.append(pace.chunk)
        assert len(chunks) < 1000
    assert chunks[:16] == [1] * 16
    assert chunks == sorted(chunks)
    assert chunks[-1] == CHUNK


def test_a_slow_call_now_and_then_leaves_the_others_taken_by_many_at_once() -> None:
    pace = slowed(10)
    for _ in range(100):
        calls = 0
        while calls < 1000:
            calls += pace.chunk
            pace.took(QUICK * pace.chunk, pace.chunk)
        pace.took(1.0, pace.chunk)
        assert pace.slow
    assert pace.chunk > CHUNK // 2


def test_one_slow_call_in_two_is_taken_one_at_a_time() -> None:
    pace = slowed(10)
    for _ in range(1000):
        pace.took(QUICK, 1)
        pace.took(1.0, 1)
    assert (pace.slow, pace.chunk) == (True, 1)

"""A tick that is due: the next is written first, missed ones are left out, and unknown ones are kept for a while."""

from __future__ import annotations

import pytest

from flux.core.schedules import UNKNOWN_KEPT, UNKNOWN_WAIT, Schedule, Step, Tick, first_tick, interval, step

MINUTE = 60_000
MONTH = 30 * 1440 * MINUTE


def minutely(max_late: float | None = None, name: str = "often") -> Schedule:
    return Schedule(name, "every 60 s", interval(MINUTE), max_late)


@pytest.mark.parametrize(("after", "tick"), [(0, MINUTE), (1, MINUTE), (MINUTE - 1, MINUTE), (MINUTE, 2 * MINUTE)])
def test_an_interval_has_its_ticks_at_multiples(after: int, tick: int) -> None:
    assert interval(MINUTE)(after) == tick


def test_a_schedule_with_another_rule_is_another_one() -> None:
    assert minutely().title == "often: every 60 s"
    assert minutely(name="every 60 s").title == "every 60 s"


def test_the_first_tick_is_the_next_one() -> None:
    assert first_tick(minutely(), 90_000, MONTH) == Tick(120_000, 120_000)


def test_the_next_tick_is_written_before_the_call() -> None:
    assert step(minutely(), 60_000, True, 60_005, MONTH) == Step(True, Tick(120_000, 120_000))


def test_a_tick_that_is_written_already_is_not_written_again() -> None:
    assert step(minutely(), 60_000, False, 60_005, MONTH) == Step(True, None)


def test_ticks_that_were_missed_are_called_once() -> None:
    assert step(minutely(), 60_000, True, 600_001, MONTH) == Step(True, Tick(660_000, 660_000))


@pytest.mark.parametrize(("late", "called"), [(0, True), (5_000, True), (5_001, False)])
def test_a_tick_that_is_too_late_is_not_called_and_the_next_one_is_written(late: int, called: bool) -> None:
    assert step(minutely(5), 60_000, True, 60_000 + late, MONTH) == Step(called, Tick(120_000, 120_000))


def test_a_tick_that_is_further_away_than_records_wait_is_written_again_when_its_record_is_due() -> None:
    monthly = Schedule("monthly", "…", interval(31 * 1440 * MINUTE))
    tick = 31 * 1440 * MINUTE
    assert first_tick(monthly, 0, MONTH) == Tick(tick, MONTH)
    assert step(monthly, tick, True, MONTH, MONTH) == Step(False, Tick(tick, tick))
    assert step(monthly, tick, False, MONTH, MONTH) == Step(False, None)
    assert step(monthly, tick, True, tick, MONTH) == Step(True, Tick(2 * tick, tick + MONTH))


def test_a_tick_of_a_schedule_that_is_not_in_the_code_waits_for_a_worker_that_has_it_and_then_ends() -> None:
    now = 60_000 + UNKNOWN_KEPT
    assert step(None, 60_000, True, now - 1, MONTH) == Step(False, Tick(60_000, now - 1 + UNKNOWN_WAIT))
    assert step(None, 60_000, True, now, MONTH) == Step(False, None)
    assert step(None, 60_000, False, 60_000, MONTH) == Step(False, None)

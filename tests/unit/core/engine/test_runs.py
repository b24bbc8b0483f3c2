"""Slices and the race of a cut with the caller that it takes work away from."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.assignment import Slice
from flux.core.engine.runs import Run, SliceRun
from flux.core.engine.verdicts import Move, Rules
from flux.core.limits.dispatch_mode import LOOK
from unit.support.engine_support import Driver, assignment, offsets, record


class RacingRun(SliceRun):
    """Its caller goes on to the next call between two readings of `index`."""

    __slots__ = ("_really", "races")

    @property
    def index(self) -> int:
        at: int = self._really
        if self.races:
            self.races -= 1
            self._really += 1
        return at

    @index.setter
    def index(self, value: int) -> None:
        self._really = value
        self.races = 0


def racing(calls: int, at: int, races: int) -> Run:
    made: Any = RacingRun(assignment(), Slice([record(offset) for offset in range(calls)], calls), 0.0)
    made.index = at
    made.races = races
    return made  # type: ignore[no-any-return]


@pytest.mark.parametrize("races", [0, 1, 2])
def test_a_cut_leaves_the_caller_the_call_that_it_is_in(races: int) -> None:
    run = racing(9, 3, races)
    assert run.cut() == 3 + races
    assert run.limit == 4 + races


def test_a_cut_never_gives_a_caller_more_than_it_had() -> None:
    run = racing(3, 2, 1)
    assert run.cut() == 3
    assert run.limit == 3


def test_a_second_cut_gives_nothing_back_that_the_first_took() -> None:
    run = racing(9, 1, 0)
    run.cut()
    setattr(run, "races", 1)  # noqa: B010
    run.cut()
    assert run.limit == 2


def test_a_second_slice_of_a_key_ordered_partition_waits_for_the_first() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    driver.poll(2, 3)
    first = driver.take()
    assert driver.nothing_to_take()
    driver.work(first)
    assert offsets(driver.take()) == [2, 3]


def test_when_another_partition_is_stuck_a_slice_that_gets_on_keeps_its_keys() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(*[driver.record(offset, b"x", 1) for offset in range(100)])
    driver.poll(driver.record(100, b"x", 1))
    quick = driver.take()
    driver.poll(0)
    stuck = driver.take()
    driver.now += LOOK
    assert driver.engine.looked(driver.now) == []
    quick.index = 50
    driver.now += LOOK
    assert driver.engine.looked(driver.now) == [stuck]
    others = driver.engine.take(False, driver.now)
    assert others is None or 100 not in offsets(others)
    assert 100 not in offsets(quick)


def test_without_order_slices_of_a_partition_run_side_by_side() -> None:
    driver = Driver(ordering="none")
    driver.assign(0)
    driver.poll(0, 1)
    driver.poll(2, 3)
    first, second = driver.take(), driver.take()
    driver.work(second)
    assert driver.commit()[0].offset == 0
    driver.work(first)
    assert driver.commit()[0].offset == 4


def test_what_two_cut_slices_leave_is_worked_from_the_lowest_offset() -> None:
    driver = Driver(ordering="none", max_metadata=16 + 8, concurrency=1)
    driver.assign(0)
    driver.poll(0, 2, 4)
    driver.poll(100, 102, 104, 106)
    first = driver.take()
    driver.now += LOOK
    driver.engine.looked(driver.now)
    driver.now += LOOK
    second = driver.take()
    assert driver.engine.looked(driver.now) == [first]
    driver.work(first)
    driver.work(second)
    assert offsets(driver.take())[0] == 2


def test_a_slice_whose_call_finds_an_outage_gives_back_the_rest_of_it_once() -> None:
    driver = Driver(rules=Rules(pause_on=(ConnectionError,)))
    driver.assign(None)
    driver.poll(*range(5))
    run = driver.take()
    away = ConnectionError("away")
    assert driver.fail(run, away) is Move.PAUSE
    driver.engine.gate.pause(run, away, 1.0, 0.0, driver.now)
    driver.engine.paused()
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    driver.now += 1
    assert driver.work_all() == [0, 1, 2, 3, 4]
    assert driver.commit()[0].offset == 5

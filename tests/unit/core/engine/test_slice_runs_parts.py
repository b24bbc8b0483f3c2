"""Runs beside others of their partition: which keys they take, and what they leave when they are cut."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.runs import Run
from flux.core.engine.slice_runs import PartRun
from unit.support.engine_support import Driver, offsets


def slow(**settings: Any) -> tuple[Driver, Run]:
    """A stage whose only call so far, of record 0 of key b"0", is stuck; records are taken by ten at once."""
    driver = Driver(**settings)
    driver.assign(0)
    driver.poll(0)
    stuck = driver.take()
    assert driver.look() == [stuck]
    driver.engine.dispatch_mode.took(0.0, 16 * 9)
    driver.engine.dispatch_mode.slow = True
    return driver, stuck


def polled(driver: Driver, first: int, keys: str) -> None:
    """One record for each letter, which is its key; "-" for none."""
    driver.poll(*[driver.record(first + n, None if key == "-" else key.encode()) for n, key in enumerate(keys)])


def taken(driver: Driver) -> Run:
    run = driver.take(polling=False)
    assert isinstance(run, PartRun)
    return run


def test_parts_of_one_slice_are_worked_side_by_side_while_their_keys_differ() -> None:
    driver, _ = slow()
    polled(driver, 1, "abcdefghijklmnopqrst")
    assert [offsets(taken(driver)), offsets(taken(driver))] == [[*range(1, 11)], [*range(11, 21)]]


def test_a_key_may_occur_again_in_a_part_and_is_free_after_the_last_of_it() -> None:
    driver, _ = slow()
    polled(driver, 1, "abacadaeafxa")
    first, second = taken(driver), taken(driver)
    assert [offsets(first), offsets(second)] == [[*range(1, 11)], [11]]
    first.index = 8  # it is in call 9, the last of this key
    driver.commit()
    assert driver.nothing_to_take()
    first.index = 9
    driver.commit()
    assert offsets(driver.take()) == [12]


def test_a_record_whose_key_is_taken_waits_behind_it_and_those_around_it_go_on() -> None:
    driver, _ = slow()
    polled(driver, 1, "abcdefghij")
    polled(driver, 11, "xayb-0z")
    first, second = taken(driver), taken(driver)
    assert offsets(second) == [11, 13, 15, 17]
    driver.work(second)
    assert driver.nothing_to_take()
    driver.work(first)
    assert sorted(driver.work_all()) == [12, 14]


def test_a_part_with_gaps_is_done_by_its_own_records() -> None:
    driver, stuck = slow()
    polled(driver, 1, "abcdefghij")
    polled(driver, 11, "xayb-0z")
    first, second = taken(driver), taken(driver)
    driver.work(stuck)
    driver.work(first)
    driver.work(second)
    assert driver.commit()[0].offset == 12
    assert sorted(driver.work_all()) == [12, 14, 16]
    assert driver.commit()[0].offset == 18


def test_the_rest_of_a_part_that_is_cut_goes_before_what_stands_behind_it() -> None:
    driver, _ = slow()
    polled(driver, 1, "abcdefghij")
    polled(driver, 11, "dba")
    part = taken(driver)
    assert driver.nothing_to_take()
    part.index = 1
    driver.engine.paused()
    rest = driver.work_all()
    assert sorted(rest) == [3, 4, 5, 6, 7, 8, 9, 10, 11, 13]  # 12 has the key of the call that the part is in
    assert rest.index(4) < rest.index(11)
    driver.work(part)
    assert driver.work_all() == [12]


def test_a_call_that_an_outage_ends_is_made_again_before_what_stands_behind_it() -> None:
    driver, _ = slow()
    polled(driver, 1, "abcdefghij")
    polled(driver, 11, "ba")
    part = taken(driver)
    assert driver.nothing_to_take()
    part.index = 1
    driver.engine._dispatch.hold_back(part, 1, driver.message(part, 1))
    part.index = 2
    driver.engine.finished(part, driver.now)
    called = driver.work_all()
    assert called.index(2) < called.index(11)
    assert sorted(called) == [2, *range(3, 13)]


@pytest.mark.parametrize("ordering", ["key", "none"])
def test_when_all_have_ended_nothing_of_them_is_left(ordering: str) -> None:
    driver, stuck = slow(ordering=ordering)
    polled(driver, 1, "abcabcabcabcabcabc--")
    parts = [taken(driver)]
    while (run := driver.engine.take(False, driver.now)) is not None:
        parts.append(run)
    for run in (*reversed(parts), stuck):
        driver.work(run)
    driver.work_all()
    [assignment] = driver.engine._partitions.assignments.values()
    assert (assignment.in_key_queues, assignment.in_flight, bool(driver.engine._common.key_queues)) == (0, 0, False)
    assert driver.commit()[0].offset == 21


def test_under_order_by_partition_nothing_is_taken_beside_a_call() -> None:
    driver, stuck = slow(ordering="partition")
    polled(driver, 1, "abc")
    assert driver.engine.take(False, driver.now) is None
    driver.work(stuck)
    assert driver.work_all() == [1, 2, 3]


def test_a_call_that_failed_frees_its_key() -> None:
    driver, _ = slow()
    polled(driver, 1, "abcdefghij")
    polled(driver, 11, "a")
    part = taken(driver)
    assert driver.nothing_to_take()
    driver.fail(part)
    assert driver.work(driver.take(polling=False)) == [11]


def test_a_part_that_was_cut_before_its_partition_was_lost_is_not_divided_again() -> None:
    driver, _ = slow()
    polled(driver, 1, "abcdefghij")
    part = taken(driver)
    driver.engine.lost([driver.p0])
    assert part.limit == 1
    driver.work(part)
    assert driver.nothing_to_take()


def test_a_call_that_failed_frees_no_key_of_the_calls_behind_it() -> None:
    driver, _ = slow()
    polled(driver, 1, "abcdefghij")
    polled(driver, 11, "b")
    part = taken(driver)
    assert driver.nothing_to_take()
    driver.fail(part)
    assert driver.nothing_to_take()


def test_a_part_of_one_key_that_is_cut_keeps_the_key() -> None:
    driver, _ = slow()
    polled(driver, 1, "aaaaaaaaaa")
    part = taken(driver)
    driver.engine.paused()
    assert driver.nothing_to_take()
    driver.work(part)
    assert driver.work_all() == [*range(2, 11)]


def test_parts_in_flight_are_counted_one_by_one() -> None:
    driver, _ = slow()
    polled(driver, 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ")
    [assignment] = driver.engine._partitions.assignments.values()
    before = assignment.in_flight
    first, second, third = taken(driver), taken(driver), taken(driver)
    for left, part in ((2, first), (1, second), (0, third)):
        driver.work(part)
        assert assignment.in_flight == before + left

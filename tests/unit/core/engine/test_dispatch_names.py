"""Limits by name in an engine: what one name holds back lets others pass, and keeps the order of its keys."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine import LEAST_REST
from flux.core.engine.runs import Run
from flux.core.limits.backpressure import FULL
from flux.core.message import Message
from unit.support.engine_support import T0, Driver, FakeRecord, offsets


def tenant(message: Message) -> bytes | None:
    """The value up to a colon; without one there is no name."""
    name, colon, _ = (message.raw_value or b"").partition(b":")
    return name if colon else None


def named(stage: int = 0, chunk: int = 1, **settings: Any) -> Driver:
    """A stage whose calls are slow, so that several callers take up to `chunk` records at once."""
    driver = Driver(stage, **settings)
    driver.assign(0, 0)
    driver.engine.dispatch_mode.slow = True
    driver.engine.dispatch_mode.took(0.0, 16 * (chunk - 1))
    driver.engine.dispatch_mode.slow = True
    return driver


def of(driver: Driver, offset: int, name: str, key: str | None = None) -> FakeRecord:
    return driver.record(offset, None if key is None else key.encode(), value=f"{name}:{offset}".encode())


def taken(driver: Driver) -> list[int]:
    """All that may start now, by callers that do not end."""
    return [offset for run in runs(driver) for offset in offsets(run)]


def runs(driver: Driver) -> list[Run]:
    found = []
    while (run := driver.engine.take(False, driver.now)) is not None:
        found.append(run)
    return found


def end(driver: Driver, run: Run) -> None:
    run.index = run.limit
    driver.engine.finished(run, driver.now)


def test_one_call_at_once_for_a_name_and_others_pass() -> None:
    driver = named(concurrency_key=tenant)
    driver.poll(*(of(driver, n, name) for n, name in enumerate("aaabab")))
    started = runs(driver)
    assert [offsets(run) for run in started] == [[0], [3]]
    assert not driver.engine.ready(driver.now)
    end(driver, started[0])
    assert taken(driver) == [1]
    end(driver, started[1])
    assert taken(driver) == [5]


def test_so_many_calls_at_once_as_the_setting_says_and_any_number_without_a_name() -> None:
    driver = named(concurrency_key=tenant, concurrency_per_key=2)
    driver.poll(of(driver, 0, "a"), of(driver, 1, "a"), of(driver, 2, "a"), 3, 4)
    assert taken(driver) == [0, 1, 3, 4]


def test_a_record_that_is_held_back_holds_back_its_key_and_no_other() -> None:
    driver = named(concurrency_key=tenant)
    records = [of(driver, 0, "a", "x"), of(driver, 1, "a", "y"), of(driver, 2, "b", "y"), of(driver, 3, "b", "z")]
    driver.poll(*records)
    started = runs(driver)
    assert [offsets(run) for run in started] == [[0], [3]]
    for run in started:
        end(driver, run)
    [again] = runs(driver)
    assert offsets(again) == [1]
    end(driver, again)
    assert taken(driver) == [2]


def test_one_caller_takes_one_record_of_each_name() -> None:
    driver = named(concurrency_key=tenant, chunk=10)
    driver.poll(*(of(driver, n, name) for n, name in enumerate("abcabc")))
    assert offsets(driver.take()) == [0, 1, 2]
    assert driver.nothing_to_take()


def test_a_name_has_its_rate_and_others_theirs() -> None:
    driver = named(rate_limit=2, rate_limit_key=tenant)
    driver.poll(*(of(driver, n, name) for n, name in enumerate("aabb")))
    started = runs(driver)
    assert [offsets(run) for run in started] == [[0], [2]]
    assert driver.engine.begins_at(driver.now) == pytest.approx(T0 + 0.49, abs=0.011)
    for run in started:
        end(driver, run)
    driver.commit(after=0.0)
    assert driver.turn().timeout > 100 * LEAST_REST
    driver.now += 0.5
    assert taken(driver) == [1, 3]


def test_both_limits_hold_at_once() -> None:
    driver = named(rate_limit=2, rate_limit_key=tenant, concurrency_key=lambda message: "all")
    driver.poll(*(of(driver, n, name) for n, name in enumerate("aab")))
    called = []
    for _ in range(30):
        for run in runs(driver):
            assert len(offsets(run)) == 1
            called.append((driver.now - T0, offsets(run)[0]))
            end(driver, run)
        driver.now += 0.05
    assert [offset for _, offset in called] == [0, 2, 1]
    assert called[-1][0] >= 0.45


def test_each_stage_counts_for_both() -> None:
    driver = named(concurrency_key=tenant)
    retry = Driver(1, call_limits=driver.engine.call_limits, concurrency_key=tenant)
    retry.assign(0)
    driver.poll(of(driver, 0, "a"))
    [run] = runs(driver)
    retry.now += 60
    retry.poll(retry.record(0, None, value=b"a:0"), retry.record(1, None, value=b"b:1"))
    assert retry.work_all() == [1]
    assert not retry.engine.ready(retry.now)
    assert not retry.engine.rests(retry.now)
    end(driver, run)
    assert retry.engine.ready(retry.now)
    assert retry.work_all() == [0]


def test_a_failed_call_makes_room_for_the_next_of_its_name() -> None:
    driver = named(concurrency_key=tenant)
    driver.poll(*(of(driver, n, "a") for n in range(2)))
    [run] = runs(driver)
    driver.fail(run)
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert taken(driver) == [1]


def test_one_that_waits_for_a_retry_in_place_makes_room_for_its_name() -> None:
    driver = named(concurrency_key=tenant, in_place_retries=1, in_place_wait=1.0)
    driver.poll(of(driver, 0, "a", "x"), of(driver, 1, "a", "x"), of(driver, 2, "a", "y"))
    [run] = runs(driver)
    driver.fail(run)
    run.index += 1
    driver.engine.finished(run, driver.now)
    [other] = runs(driver)
    assert offsets(other) == [2]
    driver.now += 1.0
    assert taken(driver) == []
    end(driver, other)
    [again] = runs(driver)
    assert offsets(again) == [0]
    end(driver, again)
    assert taken(driver) == [1]


def test_a_partition_full_of_one_name_lets_the_others_pass_within_its_bound_and_then_rests() -> None:
    driver = named(concurrency_key=tenant)
    driver.poll(*(of(driver, n, "a") for n in range(FULL - 1)), of(driver, FULL, "b"))
    driver.poll(*(of(driver, FULL + n, "a") for n in range(1, FULL)))
    assert taken(driver) == [0, FULL]
    assert not driver.engine.ready(driver.now)
    assert driver.turn().poll > 0
    assert driver.turn(after=1.1).pause == ()
    driver.poll(*(of(driver, 2 * FULL + n, "a") for n in range(1, FULL)))
    assert driver.turn().pause == (driver.p0,)


def test_names_of_a_partition_that_is_lost_are_free() -> None:
    driver = named(concurrency_key=tenant)
    driver.poll(*(of(driver, n, "a") for n in range(3)))
    [run] = runs(driver)
    driver.engine.lost([driver.p0])
    driver.engine.finished(run, driver.now)  # its caller had not begun
    driver.assign(0)
    driver.poll(*(of(driver, n, "a") for n in range(3)))
    assert taken(driver) == [0]


def test_an_abandoned_call_makes_room_for_its_name() -> None:
    driver = named(concurrency_key=tenant)
    driver.poll(*(of(driver, n, "a") for n in range(2)))
    [run] = runs(driver)
    driver.engine.aborted(run)
    assert taken(driver) == [1]


def test_a_function_that_fails_counts_the_record_for_no_name_and_is_logged() -> None:
    def broken(message: Message) -> str:
        raise KeyError("tenant")

    driver = named(concurrency_key=broken)
    driver.poll(*(of(driver, n, "a") for n in range(2)))
    assert taken(driver) == [0, 1]
    assert "concurrency_key failed with KeyError: 'tenant': such a record counts for no name" in driver.log_events()


def test_a_retry_topic_lets_other_names_pass_too() -> None:
    driver = named(1, concurrency_key=tenant)
    driver.now += 60
    driver.poll(*(of(driver, n, name) for n, name in enumerate("aaab")))
    assert taken(driver) == [0, 3]

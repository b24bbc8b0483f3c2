"""A rate in an engine: how many calls a caller gets, when the next may begin, and that waiting for it is a rest."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine import LEAST_REST
from flux.core.engine.batches import OpenBatch
from flux.core.limits.call_limits import CallLimits
from unit.support.engine_support import T0, Driver, offsets


def rated(rate: float, stage: int = 0, **settings: Any) -> Driver:
    driver = Driver(stage, rate_limit=rate, **settings)
    driver.assign(0)
    return driver


def test_a_caller_gets_no_more_records_than_it_may_call() -> None:
    driver = rated(2)
    driver.poll(0, 1, 2)
    assert offsets(driver.take()) == [0]
    assert driver.nothing_to_take()
    assert not driver.engine.ready(driver.now)


def test_a_high_rate_is_worked_in_small_runs() -> None:
    driver = rated(1000)
    driver.poll(*range(100))
    assert 1 < len(offsets(driver.take())) <= 11


def test_the_deadline_is_when_the_next_call_may_begin() -> None:
    driver = rated(2)
    driver.poll(0, 1)
    driver.work(driver.take())
    assert driver.engine.begins_at(driver.now) == pytest.approx(T0 + 0.49, abs=0.011)
    driver.commit(after=0.0)
    assert driver.turn().timeout > 100 * LEAST_REST
    driver.now += 0.5
    assert driver.work_all() == [1]


def test_nothing_at_hand_sets_no_deadline() -> None:
    driver = rated(2)
    driver.poll(0)
    driver.work_all()
    assert driver.engine.begins_at(driver.now) is None


def test_order_by_key_holds_under_a_rate() -> None:
    driver = rated(2)
    driver.poll(*(driver.record(offset, key) for offset, key in enumerate((b"a", b"b", b"a", b"b"))))
    called = []
    for _ in range(4):
        called += driver.work(driver.take())
        driver.now += 0.5
    assert called == [0, 1, 2, 3]


def test_a_batch_costs_one_call() -> None:
    driver = rated(2, batch=OpenBatch(10, 0.0))
    driver.poll(*range(30))
    assert offsets(driver.take()) == list(range(10))
    assert driver.nothing_to_take()


def test_all_stages_of_a_task_spend_one_rate() -> None:
    limits = CallLimits(2)
    main, retry = rated(2, call_limits=limits), rated(2, 1, call_limits=limits)
    for driver in (main, retry):
        driver.poll(driver.record(0, headers=[("flux-due", b"1")]))
    main.take()
    assert retry.nothing_to_take()
    retry.now += 0.5
    assert offsets(retry.take()) == [0]


def test_a_stop_does_not_wait_for_the_rate() -> None:
    driver = rated(0.001)
    driver.poll(0, 1)
    driver.work(driver.take())
    driver.engine.stop()
    assert driver.engine.quiet
    assert driver.engine.deadline(driver.now) is None or driver.engine.begins_at(driver.now) is None

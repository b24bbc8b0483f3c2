"""The procedure of a revocation: what it waits for, and how long, before partitions are given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flux.consuming import effects as do
from flux.consuming.procedures import revoke
from flux.core.ports import CommittedOffset
from unit.support.engine_support import T0, Driver

NEVER = float("inf")


def perform(driver: Driver, deadline: float = NEVER, after: Callable[[], object] = lambda: None) -> list[Any]:
    """The effects of revoking partition 0; each rest takes as long as it may, and `after` happens after the first."""
    effects: list[Any] = []
    for effect in revoke(driver.engine, [driver.p0], lambda: driver.now, 60.0, lambda: deadline):
        effects.append(effect)
        if isinstance(effect, do.Rest):
            driver.now += effect.timeout
            if sum(isinstance(each, do.Rest) for each in effects) == 1:
                after()
    return effects


def busy(**settings: Any) -> tuple[Driver, Callable[[], None]]:
    """A driver with a call in flight, and what ends it."""
    driver = Driver(**settings)
    driver.assign(0)
    driver.poll(0)
    run = driver.take()

    def end() -> None:
        run.index += 1
        driver.engine.finished(run, driver.now)

    return driver, end


def committed(effects: list[Any]) -> list[CommittedOffset]:
    return [position for each in effects if isinstance(each, do.Commit) for position in each.offsets.values()]


def test_a_call_in_flight_ends_and_is_committed_before_its_partition_is_given_up() -> None:
    driver, end = busy()
    assert committed(perform(driver, after=end)) == [CommittedOffset(1)]


def test_a_rebalance_during_a_stop_waits_for_calls_in_flight_too() -> None:
    driver, end = busy()
    driver.engine.stop()
    assert committed(perform(driver, deadline=T0 + 25.0, after=end)) == [CommittedOffset(1)]


def test_a_rebalance_during_a_stop_waits_no_longer_than_the_stop_does() -> None:
    driver, _ = busy(drain_timeout=10.0)
    driver.engine.stop()
    effects = perform(driver, deadline=T0 + 1.0)
    assert committed(effects) == []
    assert driver.now - T0 <= 1.1


def test_a_call_that_outlives_the_drain_timeout_is_not_waited_for() -> None:
    driver, _ = busy(drain_timeout=2.0)
    perform(driver)
    assert 2.0 <= driver.now - T0 <= 2.1

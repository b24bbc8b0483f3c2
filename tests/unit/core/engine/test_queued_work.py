"""Records in memory are bounded: partitions are paused, and a full stage stops polling for a moment first."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.limits.backpressure import FULL, PATIENCE
from unit.support.engine_support import T0, T0_MS, Driver, FakeRecord


def due(driver: Driver, offset: int, after: float, key: bytes | None = None, **fields: Any) -> FakeRecord:
    """A record that is due `after` seconds from the start."""
    header = ("flux-due", str(T0_MS + int(after * 1000)).encode())
    return driver.record(offset, key, headers=[header], **fields)


def retrying(stage: int = 1, **settings: Any) -> Driver:
    driver = Driver(stage, **settings)
    driver.assign(0, 0)
    return driver


@pytest.mark.parametrize("bound", [{"max_waiting": 8}, {"max_waiting_bytes": 8}])
def test_waiting_is_bounded_and_a_full_partition_is_paused_until_half_is_gone(bound: dict[str, int]) -> None:
    driver = retrying(**bound)
    driver.poll(*(due(driver, offset, offset) for offset in range(1, 5)))
    turn = driver.turn()
    assert turn.pause == (driver.p0,)
    assert turn.poll > 0
    changes = []
    for _ in range(3):
        driver.now += 1
        driver.work_all()
        turn = driver.turn()
        changes.append((turn.pause, turn.resume))
    assert changes == [((), ()), ((), ()), ((), (driver.p0,))]


def test_a_pause_is_not_remembered_across_a_revocation() -> None:
    driver = retrying(max_waiting=2)
    driver.poll(due(driver, 0, 5))
    assert driver.turn().pause == (driver.p0,)
    driver.engine.revoking([driver.p0])
    driver.engine.revoked([driver.p0])
    driver.assign(0)
    assert driver.turn().pause == ()
    driver.poll(due(driver, 0, 5), due(driver, 1, 5))
    assert driver.turn().pause == (driver.p0,)


def test_what_waits_is_forgotten_at_a_revocation() -> None:
    driver = retrying()
    driver.poll(due(driver, 0, 5), due(driver, 0, 5, partition=1))
    driver.engine.revoking([driver.p0])
    driver.engine.revoked([driver.p0])
    assert driver.engine.waiting == 1
    driver.now = T0 + 5
    run = driver.take()
    assert driver.message(run, 0).partition == 1


def test_a_partition_of_the_main_stage_that_has_too_much_is_paused_and_the_other_is_polled() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(*range(2 * FULL))
    turn = driver.turn()
    assert turn.pause == (driver.p0,)
    assert turn.poll > 0
    driver.work_all()
    assert driver.turn().resume == (driver.p0,)


def test_a_full_stage_does_not_poll_for_a_while_and_then_pauses_and_polls() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(*range(FULL))
    assert driver.turn().poll == 0
    turn = driver.turn(after=PATIENCE)
    assert turn.pause == (driver.p0,)
    assert turn.poll > 0
    driver.work_all()
    assert driver.turn().resume == (driver.p0,)

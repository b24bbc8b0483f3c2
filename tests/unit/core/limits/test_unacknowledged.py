"""A stage starts no calls while too much of what its calls produced is not acknowledged."""

from __future__ import annotations

import pytest

from flux.core.engine import BUSY_REST
from flux.core.engine.forwards import Failure
from flux.core.engine.slices import Entry
from flux.core.limits import unacknowledged
from flux.core.limits.backpressure import PATIENCE
from flux.core.limits.unacknowledged import Unacknowledged
from unit.support.engine_support import Driver

MOST = 8


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unacknowledged, "MOST_UNACKNOWLEDGED", MOST)


def test_it_blocks_at_so_many_records_until_a_quarter_is_left() -> None:
    waiting = Unacknowledged()
    blocked = []
    for number in range(MOST):
        waiting.add(number)
        blocked.append(waiting.blocked)
    assert blocked == [False] * (MOST - 1) + [True]
    blocked.clear()
    for number in range(MOST):
        waiting.ended(number)
        blocked.append(waiting.blocked)
    assert blocked == [True] * 5 + [False] * 3


def test_a_record_that_ends_twice_counts_once() -> None:
    waiting = Unacknowledged()
    for number in range(MOST):
        waiting.add(number)
    for _ in range(MOST):
        waiting.ended(0)
    assert waiting.blocked


def produce(driver: Driver, calls: int) -> list[Entry]:
    """So many calls return, whose outputs are not acknowledged yet."""
    entries = []
    for offset in range(calls):
        driver.poll(offset)
        run = driver.take()
        entry = driver.engine.produced(run, run.index, driver.message(run, run.index))
        assert entry is not None
        entries.append(entry)
        run.index += 1
        driver.engine.finished(run, driver.now)
    return entries


@pytest.mark.parametrize("failure", [None, Failure(ValueError())])
def test_no_call_starts_until_most_acknowledgements_have_come(failure: Failure | None) -> None:
    driver = Driver()
    driver.assign(0)
    entries = produce(driver, MOST)
    driver.poll(MOST)
    assert (driver.nothing_to_take(), driver.engine.ready(driver.now)) == (True, 0)
    turn = driver.turn()
    assert (turn.poll, turn.pause) == (0, ())  # a pause would drop what the client has fetched
    assert turn.timeout <= BUSY_REST
    for entry in entries[: MOST * 3 // 4]:
        assert driver.engine.unacknowledged.blocked
        driver.engine.settled(entry, failure, driver.now)
    assert driver.engine.ready(driver.now) == 1
    assert driver.turn().poll > 0
    assert driver.take()


def test_a_stage_that_stays_blocked_pauses_its_partitions_and_polls() -> None:
    driver = Driver()
    driver.assign(0)
    entries = produce(driver, MOST)
    assert driver.turn().poll == 0
    turn = driver.turn(after=PATIENCE)
    assert (turn.poll > 0, turn.pause) == (True, (driver.p0,))
    for entry in entries:
        driver.engine.settled(entry, None, driver.now)
    assert driver.turn().resume == (driver.p0,)


def test_what_calls_of_a_lost_partition_produced_is_waited_for_too() -> None:
    driver = Driver()
    driver.assign(0)
    entries = produce(driver, MOST)
    driver.engine.lost([driver.p0])
    assert driver.engine.unacknowledged.blocked
    for entry in entries:
        driver.engine.settled(entry, None, driver.now)
    assert not driver.engine.unacknowledged.blocked


def test_what_waits_for_a_transaction_has_a_bound_of_its_own() -> None:
    driver = Driver(exactly_once=True)
    driver.assign(0)
    produce(driver, MOST)
    assert not driver.engine.unacknowledged.blocked

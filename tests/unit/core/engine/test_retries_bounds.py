"""How many failed records may be open, how large their copies count, and what ends with a call, a partition, a stop."""

from __future__ import annotations

import pytest

from flux.core.backoff import Waits
from flux.core.engine.slices import Entry
from flux.core.engine.transactions import CallOutputs
from flux.core.ports import ProducerRecord
from unit.support.engine_support import DAY, T0, Driver


@pytest.mark.parametrize(("exactly_once", "most"), [(False, 1), (True, 3)])
def test_more_copies_may_wait_for_a_transaction_than_for_a_write(
    exactly_once: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.core.engine.retries.MOST_OPEN", 1)
    monkeypatch.setattr("flux.core.engine.retries.MOST_IN_TRANSACTION", 3)
    driver = Driver(exactly_once=exactly_once)
    driver.assign(0)
    for offset in range(most):
        driver.poll(offset)
        assert driver.work_all(offset) == [offset]
    driver.poll(most)
    assert driver.nothing_to_take()


def test_a_copy_counts_with_value_key_trace_and_something_for_the_rest() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(driver.record(0, b"k" * 50, value=b"v" * 600))
    driver.fail(driver.take(), trace="t" * 70)
    [forward] = driver.engine.writes(driver.now)
    assert forward.size == 600 + 50 + 70 + 500


def test_the_default_wait_is_that_of_the_assignment() -> None:
    driver = Driver(waits=Waits(None, 30 * DAY))
    driver.engine.assigned({driver.p0: None}, {driver.p0: 7}, T0, [])
    driver.poll(0)
    driver.work_all(0)
    [forward] = driver.engine.writes(driver.now)
    assert forward.forwarded_copy.wait == 1 + 15 + 7 * 2


def test_failed_records_count_for_the_threshold_of_transactions() -> None:
    driver = Driver(exactly_once=True, commit_interval=60.0, commit_threshold=2)
    driver.assign(0)
    driver.turn(after=61.0)
    for offset, due in ((0, False), (1, True)):
        driver.poll(offset)
        driver.work_all(offset)
        assert driver.turn().transact is due


def test_what_calls_produced_is_counted_transaction_by_transaction() -> None:
    driver = Driver(exactly_once=True)
    driver.assign(0)
    for offset in range(2):
        driver.poll(offset)
        run = driver.take()
        entry = driver.engine.produced(run, 0, driver.message(run, 0))
        assert isinstance(entry, Entry)
        run.index = 1
        driver.engine.finished(run, driver.now)
        driver.engine.transactions.produced(CallOutputs([entry], [("out", ProducerRecord(b"x"))], 1))
        sealed = driver.engine.transactions.seal(driver.now)
        assert sealed is not None
        driver.engine.transactions.committed(sealed, driver.now)
    assert driver.engine.stats.done == 2


def test_before_a_stage_leaves_nothing_is_named_as_not_forwarded() -> None:
    driver = Driver()
    assert (driver.engine.unforwarded, driver.engine.left_open) == ([], False)


def test_a_retry_in_place_that_failed_again_is_forwarded_once_by_a_stop() -> None:
    driver = Driver(in_place_retries=2, in_place_wait=1.0)
    driver.assign(0)
    driver.poll(0)
    driver.work_all(0)
    driver.now += 1.0
    run = driver.take()
    driver.fail(run)
    driver.engine.stop()
    assert len(driver.engine.writes(driver.now)) == 1


def test_a_process_that_fails_in_a_first_call_moves_nothing() -> None:
    driver = Driver(in_place_retries=2, ordering="none", concurrency=2)
    driver.assign(0)
    driver.poll(0, 1)
    driver.take()
    driver.look()
    run = driver.take(polling=False)
    assert run.entries
    driver.engine.aborted(run)
    assert driver.engine.writes(driver.now) == []


def test_what_is_ready_for_its_retry_in_place_stays_when_another_partition_is_lost() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=1.0)
    driver.assign(0, 0)
    for partition in (0, 1):
        driver.poll(driver.record(partition, partition=partition))
        driver.work_all(partition)
    driver.now += 1.0
    lost = driver.message(driver.take(), 0).partition
    driver.engine.lost([(driver.p0, driver.p1)[lost]])
    driver.engine.stop()
    [forward] = driver.engine.writes(driver.now)
    assert forward.entry.assignment.partition == (driver.p1, driver.p0)[lost]

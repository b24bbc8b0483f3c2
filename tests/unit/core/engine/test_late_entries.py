"""An entry that a former owner wrote too late holds no key for ever."""

from __future__ import annotations

from unit.support.engine_support import P0
from unit.support.order_support import KEYS, Keys, Ordered

TRY1 = "t-g-try-1"


def owning(keys: Keys | None = None) -> Ordered:
    """It has done record 0, and owns the partition."""
    driver = Ordered(keys=keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.record(0))
    driver.work_all()
    return driver


def test_a_late_entry_of_a_record_that_is_done_is_removed() -> None:
    driver = owning()
    driver.keys.set(0)
    driver.read()
    assert driver.settle() == [KEYS]
    assert len(driver.keys.view) == 0
    assert driver.commit()[0].offset == 1


def test_a_late_entry_of_a_record_in_a_call_is_removed_when_that_is_done() -> None:
    driver = owning()
    driver.poll(driver.record(1))
    run = driver.take()
    driver.keys.set(1)
    driver.read()
    assert driver.settle() == []
    driver.work(run)
    [removal] = driver.writes()
    forwarded = removal.forwarded_copy
    assert (forwarded.message.key, forwarded.message.raw_value, str(removal)) == (b"k", None, "t[0]@1 to t-g-keys")
    assert (forwarded.message.timestamp, forwarded.message.headers) == (-1, ())


def test_a_late_entry_of_a_record_that_was_not_called_leads_it_on() -> None:
    driver = owning()
    driver.keys.set(1)
    driver.read()
    driver.poll(driver.record(1))
    assert driver.work_all() == []
    assert driver.settle() == [TRY1]
    assert len(driver.keys.view) == 1


def test_a_late_entry_of_a_record_whose_call_fails_leads_it_on() -> None:
    driver = owning()
    driver.poll(driver.record(1))
    run = driver.take()
    driver.keys.set(1)
    driver.read()
    driver.work(run, 1)
    assert driver.settle() == [KEYS, TRY1]
    assert len(driver.keys.view) == 1


def test_an_entry_that_was_there_before_or_is_its_own_is_not_late() -> None:
    keys = Keys()
    keys.set(0)
    driver = owning(keys)
    keys.set(0, stage=2)
    driver.read()
    assert driver.settle() == [TRY1]
    assert len(keys.view) == 1


def test_a_late_entry_that_was_removed_by_others_needs_no_removal() -> None:
    driver = owning()
    driver.poll(driver.record(1))
    run = driver.take()
    driver.keys.set(1)
    driver.read()
    driver.keys.remove(1)
    driver.read()
    driver.work(run)
    assert driver.settle() == []


def test_late_entries_are_the_owners_business_alone() -> None:
    driver = owning()
    driver.poll(driver.record(1))
    driver.take()
    driver.keys.set(1)
    driver.read()
    driver.engine.revoking([P0])
    driver.read()
    driver.engine.lost([P0])
    driver.keys.set(5)
    driver.read()
    assert driver.settle() == []


def test_of_two_partitions_one_may_go_with_its_late_entries() -> None:
    driver = Ordered()
    driver.assign(0, 0)
    driver.poll(driver.record(0), driver.record(0, partition=1))
    driver.work_all()
    driver.poll(driver.record(1))
    run = driver.take()
    driver.keys.set(1)
    driver.read()
    driver.engine.lost([driver.p0])
    driver.engine.lost([driver.p1])
    driver.engine.finished(run, driver.now)
    assert driver.settle() == []


def test_a_partition_that_comes_back_is_its_new_assignments() -> None:
    driver = owning()
    [before] = driver.engine._partitions.assignments.values()
    late = driver.order._late
    driver.assign(1)
    driver.poll(driver.record(1))
    driver.work_all()
    late.forget(before)
    driver.keys.set(1)
    driver.read()
    assert driver.settle() == [KEYS]

"""What the order allows is taken from key queues and backlogs."""

from __future__ import annotations

from flux.core.engine.backlog import Backlogs
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.order_sifting import sifted, taken
from flux.core.engine.slices import Slice
from unit.support.engine_support import P0, assignment, entry, record
from unit.support.order_support import Keys, Ordered


def held(*, offset: int = 0) -> Ordered:
    keys = Keys()
    keys.set(offset)
    driver = Ordered(keys=keys)
    driver.assign(1)
    driver.read()
    return driver


def test_without_an_order_all_entries_are_taken() -> None:
    key_queues, owner = KeyQueues("none"), assignment()
    key_queues.add(entry(owner, 0))
    assert len(taken(key_queues, None, 9, 0.0)) == 1


def test_entries_that_may_not_be_called_are_passed() -> None:
    driver = held()
    [owner] = driver.engine._partitions.assignments.values()
    key_queues = driver.engine._common.key_queues
    for offset, key in ((1, b"k"), (2, b"other")):
        key_queues.add(entry(owner, offset, key))
    assert [each.offset for each in taken(key_queues, driver.order, 1, driver.now)] == [2]
    assert taken(key_queues, driver.order, 1, driver.now) == []


def test_nothing_is_taken_from_empty_key_queues() -> None:
    driver = held()
    assert taken(driver.engine._common.key_queues, driver.order, 1, driver.now) == []


def test_slices_are_looked_at_until_one_has_a_record_that_may_be_called() -> None:
    driver = held()
    [owner] = driver.engine._partitions.assignments.values()
    backlogs = Backlogs()
    assert not sifted(backlogs, driver.order, driver.now)
    owner.deliver([record(offset, partition=P0) for offset in (1, 2, 3)]).__next__()
    backlogs.add(owner, Slice([record(1)], 2))
    backlogs.add(owner, Slice([record(2), record(3, b"other")], 4))
    assert sifted(backlogs, driver.order, driver.now)
    assert [each.offset() for each in owner.backlog[0].records] == [3]


def test_a_partition_without_outstanding_records_is_not_looked_at() -> None:
    driver = Ordered()
    driver.assign(0)
    [owner] = driver.engine._partitions.assignments.values()
    backlogs = Backlogs()
    backlogs.add(owner, Slice([record(0)], 1))
    assert sifted(backlogs, driver.order, driver.now)

"""What is written together with the outputs of a call."""

from __future__ import annotations

from flux.core.engine.slices import Entry
from unit.support.engine_support import FakeRecord, message
from unit.support.order_support import KEYS, Keys, Ordered


def entry(driver: Ordered, record: FakeRecord) -> Entry:
    assignment = driver.engine._partitions.assignments[driver.p0]
    return Entry(assignment, message(record, driver.stage.number), record.at, record.at + 1)


def test_the_removal_of_its_entry_if_it_is_outstanding() -> None:
    keys = Keys()
    version = keys.set(7)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    removal = driver.order.removal(entry(driver, driver.copy(0, 7, version)))
    assert removal is not None
    assert (removal[0], removal[1].key, removal[1].value) == (KEYS, b"0:7", None)
    assert driver.order.removal(entry(driver, driver.copy(0, 8, version))) is None
    assert driver.order.removal(entry(driver, driver.copy(0, 7, None))) is None


def test_nothing_in_the_main_stage() -> None:
    keys = Keys()
    keys.set(7)
    driver = Ordered(keys=keys)
    driver.assign(0)
    driver.read()
    assert driver.order.removal(entry(driver, driver.record(7))) is None

"""Records of one key that are called alone, after processes have vanished."""

from __future__ import annotations

from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.engine.slices import Entry
from flux.core.ports import CommittedOffset
from unit.support.engine_support import FakeRecord, message
from unit.support.order_support import KEYS, Keys, Ordered


def careful(keys: Keys, stage: int = 0) -> Ordered:
    driver = Ordered(stage, keys, max_crashes=2)
    driver.assign(CommittedOffset(1, OffsetTracker(1).metadata(Mark(1, None, 9))))
    driver.read()
    return driver


def entry(driver: Ordered, record: FakeRecord) -> Entry:
    assignment = driver.engine._partitions.assignments[driver.p0]
    assert assignment.offset_tracker is not None
    assignment.offset_tracker.delivered(record.at, record.at + 1)
    return Entry(assignment, message(record, driver.stage.number), record.at, record.at + 1)


def test_a_record_without_key_and_the_first_of_a_key_may_be_called() -> None:
    driver = careful(Keys())
    for key in (None, b"k"):
        assert driver.order.admits(entry(driver, driver.record(1, key)), driver.now)


def test_the_same_copy_may_be_looked_at_twice() -> None:
    keys = Keys()
    version = keys.set(7)
    driver = careful(keys, 1)
    for _ in range(2):
        assert driver.order.admits(entry(driver, driver.copy(1, 7, version)), driver.now)
    assert not driver.order.admits(entry(driver, driver.copy(2, 7, version)), driver.now)


def test_what_waited_in_memory_is_put_back_to_be_called_alone() -> None:
    keys = Keys()
    keys.set(7)
    version = keys.set(8)
    driver = careful(keys, 1)
    assert not driver.order.admits(entry(driver, driver.copy(1, 8, version)), driver.now)
    keys.remove(7)
    driver.read()
    assignment = driver.engine._partitions.assignments[driver.p0]
    assert [piece.place for piece in assignment.held] == [(0, 1)]


def test_a_follower_of_the_main_stage_moves_without_a_call() -> None:
    keys = Keys()
    keys.set(0)
    driver = careful(keys)
    assert not driver.order.admits(entry(driver, driver.record(1)), driver.now)
    assert driver.settle() == [KEYS, "t-g-try-1"]

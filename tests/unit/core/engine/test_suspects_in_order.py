"""Records that are called alone after crashes keep the order of their keys through retries."""

from __future__ import annotations

from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.ports import CommittedOffset
from unit.support.order_support import KEYS, Keys, Ordered

_IN_DOUBT = Mark(1, None, 9)
TRY1, DLQ = "t-g-try-1", "t-g-dlq"


def careful(keys: Keys, stage: int = 0, found: Mark = _IN_DOUBT) -> Ordered:
    """A process that calls its records alone."""
    driver = Ordered(stage, keys, max_crashes=2, concurrency=2)
    driver.assign(CommittedOffset(1, OffsetTracker(1).metadata(found)))
    driver.read()
    driver.commit(0)
    return driver


def called_alone(driver: Ordered) -> list[int]:
    """The records that are called next, each after a commit that names it, until one has to be written first."""
    called: list[int] = []
    for _ in range(3):
        driver.commit(0)
        called += driver.work_all()
    return called


def test_in_the_main_stage_a_suspect_follows_the_first_record_of_its_key() -> None:
    keys = Keys()
    keys.set(0)
    driver = careful(keys)
    driver.poll(driver.record(1), driver.record(2, b"other"), driver.record(3))
    assert called_alone(driver) == []
    assert driver.settle() == [KEYS, TRY1]
    assert called_alone(driver) == [2]
    assert driver.settle() == [KEYS, TRY1]
    assert [copy.key for copy in driver.written] == [b"k", b"k"]


def test_in_a_retry_stage_a_suspect_waits_for_the_first_record_of_its_key() -> None:
    keys = Keys()
    first, second = keys.set(7), keys.set(8)
    driver = careful(keys, stage=1)
    driver.poll(driver.copy(1, 8, second), driver.copy(2, 7, first), driver.copy(3, 9, None))
    assert called_alone(driver) == [2]
    assert driver.settle() == [KEYS]
    assert called_alone(driver) == [1]
    assert driver.settle() == [KEYS]
    assert called_alone(driver) == [3]
    assert len(keys.view) == 0


def test_the_records_behind_one_that_is_given_up_follow_it_to_its_dead_letter() -> None:
    keys = Keys()
    driver = careful(keys, found=Mark(2, 1, 9))
    driver.poll(driver.record(1), driver.record(2))
    driver.turn()
    assert driver.nothing_to_take()
    assert driver.settle() == [DLQ]
    assert dict(driver.written[0].headers)["flux-reason"] == b"crashed"
    assert called_alone(driver) == [2]

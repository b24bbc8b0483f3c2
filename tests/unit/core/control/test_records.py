"""Where a record is when somebody wants it skipped."""

from __future__ import annotations

import pytest

from flux.core.backoff import Waits
from flux.core.control.records import whereabouts
from flux.core.engine.batches import OpenBatch
from unit.support.engine_support import Driver


def where(driver: Driver, *offsets: int, partition: int = 0) -> list[str]:
    return [whereabouts(driver.engine, partition, offset).name for offset in offsets]


def test_a_record_is_ahead_called_ended_or_done() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1, 2, 3)
    run = driver.take()
    run.index = 2
    assert where(driver, 0, 1, 2, 3, 9) == ["ENDED", "ENDED", "CALLED", "AHEAD", "AHEAD"]
    driver.commit()
    assert where(driver, 0, 1, 2, 3) == ["DONE", "DONE", "CALLED", "AHEAD"]
    run.index = 4
    assert where(driver, 2, 3) == ["ENDED", "ENDED"]


def test_a_record_that_waits_for_its_copy_has_ended_and_one_tried_again_in_place_is_ahead() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=5.0)
    driver.assign(0)
    driver.poll(0)
    driver.work(driver.take(), 0)
    assert where(driver, 0, 1) == ["AHEAD", "AHEAD"]
    driver = Driver(waits=Waits(10.0, 60.0))
    driver.assign(0)
    driver.poll(0, 1)
    driver.work_all(0)
    assert where(driver, 0, 1, 2) == ["ENDED", "DONE", "AHEAD"]


def test_all_records_of_a_batch_are_called_at_once() -> None:
    driver = Driver(batch=OpenBatch(2, 0.0))
    driver.assign(0)
    driver.poll(0, 1, 2)
    driver.take()
    assert where(driver, 0, 1, 2) == ["CALLED", "CALLED", "AHEAD"]


@pytest.mark.parametrize("stage", [0, 1])
def test_a_record_of_another_process_is_elsewhere(stage: int) -> None:
    driver = Driver(stage)
    driver.assign(0)
    assert where(driver, 0, partition=1) == ["ELSEWHERE"]

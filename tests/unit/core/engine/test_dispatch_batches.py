"""Batches in an engine: what is handed out, how their records end, and what is committed meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from flux.core.engine import BATCH
from flux.core.engine.batches import OpenBatch
from flux.core.engine.forwards import Failure
from flux.core.engine.offset_tracker import read_metadata
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Move, Pause
from flux.core.limits import backpressure as backpressure
from flux.core.ports import CommittedOffset
from unit.support.engine_support import AWAY, T0, T0_MS, Driver, FakeRecord, offsets


class Batched(Driver):
    def __init__(
        self, stage: int = 0, *, most: int = 3, wait: float = 1.0, partitions: int = 1, **settings: Any
    ) -> None:
        super().__init__(stage, batch=OpenBatch(most, wait), **settings)
        self.assign(*[0] * partitions)

    def end(self, run: Run, failures: Mapping[int, BaseException] | None = None) -> list[int]:
        """The call has ended; `failures`: offset -> exception. Returns the offsets that it had."""
        assert run.batched
        called = offsets(run)
        for index, offset in enumerate(called):
            run.index = index
            if failures and offset in failures:
                self.fail(run, failures[offset])
        run.index = len(called)
        self.engine.finished(run, self.now)
        return called


def due(driver: Driver, offset: int, after: float, partition: int = 0) -> FakeRecord:
    header = ("flux-due", str(T0_MS + int(after * 1000)).encode())
    return driver.record(offset, str(offset).encode(), partition, headers=[header])


def test_a_poll_is_worked_in_batches_and_what_is_left_after_its_wait() -> None:
    driver = Batched()
    driver.poll(*range(7))
    assert driver.end(driver.take()) == [0, 1, 2]
    assert driver.end(driver.take()) == [3, 4, 5]
    assert driver.nothing_to_take()
    assert driver.engine.begins_at(driver.now) == T0 + 1
    driver.now += 1
    assert driver.end(driver.take()) == [6]
    assert driver.commit() == {0: CommittedOffset(7)}


def test_records_of_several_polls_make_one_batch() -> None:
    driver = Batched()
    driver.poll(0)
    assert driver.nothing_to_take()
    driver.now += 0.5
    driver.poll(1)
    assert driver.nothing_to_take()
    driver.poll(2)
    assert driver.end(driver.take()) == [0, 1, 2]


def test_one_batch_is_in_flight_per_partition() -> None:
    driver = Batched(partitions=2)
    driver.poll(*(driver.record(offset, None, partition) for partition in (0, 1) for offset in range(6)))
    first, second = driver.take(), driver.take()
    assert {driver.message(run, 0).partition for run in (first, second)} == {0, 1}
    assert driver.nothing_to_take()
    driver.end(first)
    assert offsets(driver.take()) == [3, 4, 5]


def test_nothing_of_a_batch_is_done_before_its_call_has_ended() -> None:
    driver = Batched(partitions=1)
    driver.poll(0, 1, 2)
    run = driver.take()
    assert driver.look() == [run]  # a call that lasts is no reason to divide it
    assert offsets(run) == [0, 1, 2]
    assert driver.commit() == {}
    driver.end(run)
    assert driver.commit() == {0: CommittedOffset(3)}


def test_one_failure_moves_that_record_alone() -> None:
    driver = Batched()
    driver.poll(0, 1, 2)
    driver.end(driver.take(), {1: ValueError("bad")})
    assert read_metadata(*driver.commit()[0]) == [(2, 3)]
    assert driver.write() == [1]
    assert driver.commit() == {0: CommittedOffset(3)}


def test_a_key_that_failed_does_not_hold_back_the_next_batch() -> None:
    driver = Batched()
    driver.poll(*(driver.record(offset, b"a") for offset in range(6)))
    driver.end(driver.take(), {1: ValueError("bad")})
    assert driver.end(driver.take()) == [3, 4, 5]


def test_a_record_that_is_tried_in_place_holds_back_its_key_and_goes_into_a_later_batch() -> None:
    driver = Batched(in_place_retries=1, in_place_wait=5.0)
    keys = (b"a", b"b", b"c", b"a", b"b", b"a")
    driver.poll(*(driver.record(offset, key) for offset, key in enumerate(keys)))
    driver.end(driver.take(), {0: ValueError("bad")})
    driver.now += 1
    assert driver.end(driver.take()) == [4]
    driver.now += 4
    run = driver.take()
    assert [(driver.message(run, i).offset, driver.message(run, i).attempt) for i in range(3)] == [
        (0, 2),
        (3, 1),
        (5, 1),
    ]


def test_what_a_batch_produced_keeps_its_records_open() -> None:
    driver = Batched()
    driver.poll(0, 1, 2)
    run, entries = driver.take(), []
    for index in range(3):
        run.index = index
        entries.append(driver.engine.produced(run, index, driver.message(run, index)))
    run.index = 3
    driver.engine.finished(run, driver.now)
    assert driver.commit() == {}
    assert not driver.engine.quiet
    for entry, failure in zip(entries, (None, Failure(AWAY), None), strict=True):
        assert entry is not None
        driver.engine.settled(entry, failure, driver.now)
    assert driver.write() == [1]
    assert driver.commit() == {0: CommittedOffset(3)}


def test_a_batch_that_finds_an_outage_is_given_back_in_its_order() -> None:
    driver = Batched()
    driver.poll(*range(4))
    run, outage = driver.take(), Pause()
    for index in range(3):
        run.index = index
        assert driver.fail(run, outage) is Move.PAUSE
    driver.engine.call_limits.breaker.pause(run, outage, None, 0.0, driver.now)
    driver.engine.paused()
    run.index = 3
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    driver.now += 1.01
    probe = driver.take()
    assert offsets(probe) == [0, 1, 2]
    assert driver.nothing_to_take()
    driver.end(probe)
    assert driver.end(driver.take()) == [3]


def test_the_records_of_a_batch_that_found_none_end_although_one_of_them_found_an_outage() -> None:
    driver = Batched()
    driver.poll(0, 1, 2)
    run = driver.take()
    run.index = 1
    driver.fail(run, Pause())
    driver.engine.call_limits.breaker.pause(run, Pause(), None, 0.0, driver.now)
    driver.engine.paused()
    run.index = 3
    driver.engine.finished(run, driver.now)
    assert driver.engine.call_limits.breaker.paused
    assert read_metadata(*driver.commit(after=0.0)[0]) == [(2, 3)]
    driver.now += 2
    assert driver.end(driver.take()) == [1]


def test_a_failure_of_the_process_leaves_the_batch_to_the_next_owner() -> None:
    driver = Batched()
    driver.poll(0, 1, 2)
    run = driver.take()
    assert driver.fail(run, MemoryError()) is Move.STOP
    driver.engine.aborted(run)
    driver.engine.stop()
    assert driver.engine.quiet
    assert driver.write() == []
    assert driver.commit() == {}


@pytest.mark.parametrize("ends", ["revocation", "stop"])
def test_a_batch_in_flight_ends_and_what_waits_for_more_is_forgotten(ends: str) -> None:
    driver = Batched()
    driver.poll(*range(4))
    run = driver.take()
    if ends == "stop":
        driver.engine.stop()
    else:
        driver.engine.revoking([driver.p0])
        assert not driver.engine.drained([driver.p0])
    driver.end(run, {2: ValueError("bad")})
    assert driver.write() == [2]
    assert driver.engine.quiet
    assert driver.engine.commit(driver.now, [driver.p0], at_once=True) == {driver.p0: CommittedOffset(3)}
    driver.now += 60
    assert driver.nothing_to_take()


def test_what_ends_after_its_partition_was_lost_counts_for_nothing() -> None:
    driver = Batched()
    driver.poll(0, 1, 2)
    run = driver.take()
    driver.engine.lost([driver.p0])
    driver.end(run, {1: ValueError("bad")})
    assert driver.write() == []
    assert driver.engine.empty


def test_a_retry_stage_batches_what_is_due() -> None:
    driver = Batched(1, wait=0.0)
    driver.poll(due(driver, 0, 9), due(driver, 1, 3), due(driver, 2, 5), due(driver, 3, 60))
    driver.now = T0 + 10
    assert driver.end(driver.take()) == [1, 2, 0]
    assert driver.nothing_to_take()


def test_the_wait_for_more_counts_from_when_a_record_is_due() -> None:
    driver = Batched(1, wait=2.0)
    driver.poll(due(driver, 0, 9), due(driver, 1, 10))
    driver.now = T0 + 9
    assert driver.nothing_to_take()
    driver.now = T0 + 10.9
    assert driver.nothing_to_take()
    driver.now = T0 + 11
    assert driver.end(driver.take()) == [0, 1]


def test_a_retry_stage_with_no_room_in_the_metadata_waits_for_the_record_at_its_position_alone() -> None:
    driver = Batched(1, most=1, wait=0.0, partitions=2, max_metadata=0, rate_limit=5, ordering="none")
    for partition in (0, 1):
        driver.poll(due(driver, 0, 20, partition), due(driver, 1, 10, partition))
    driver.now = T0 + 15
    assert driver.nothing_to_take()
    assert not driver.engine.ready(driver.now)
    called = []
    for _ in range(4):
        driver.now += 5.1
        run = driver.take()
        [partition] = [assignment.partition.partition for assignment in run.assignments()]
        called += [(partition, offset) for offset in driver.end(run)]
    assert [[offset for at, offset in called if at == partition] for partition in (0, 1)] == [[0, 1], [0, 1]]


def test_large_batches_are_not_starved_by_back_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "FULL", 3)
    driver = Batched(most=2 * BATCH)
    for start in range(0, 2 * BATCH, BATCH):
        assert driver.turn().pause == ()
        driver.poll(*range(start, start + BATCH))
        if start < BATCH:
            assert driver.nothing_to_take()
    assert len(driver.end(driver.take())) == 2 * BATCH


class Paused(Batched):
    """A retry stage whose dependency is unavailable for ten seconds, in which records become due."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(1, wait=5.0, **settings)
        breaker, run = self.engine.call_limits.breaker, Run(0, self.now)
        breaker.pause(run, Pause(), 10.0, 0.0, self.now)
        self.engine.paused()

    def end_pause(self) -> None:
        self.now = T0 + 10.1


def test_records_that_became_due_during_a_pause_do_not_wait_again_after_it() -> None:
    driver = Paused()
    driver.poll(due(driver, 0, 1.0), due(driver, 1, 2.0))
    assert driver.nothing_to_take()
    driver.end_pause()
    assert offsets(driver.take()) == [0, 1]


def test_a_record_delivered_late_waits_from_its_delivery() -> None:
    driver = Paused()
    driver.now = T0 + 8
    driver.poll(due(driver, 0, 1.0))
    driver.end_pause()
    assert driver.nothing_to_take()
    assert driver.engine.begins_at(driver.now) == T0 + 13


def test_a_batch_waits_from_the_delivery_of_its_first_record_though_others_came_in_an_earlier_poll() -> None:
    driver = Paused(most=10)
    driver.poll(due(driver, 0, 8.2), due(driver, 1, 9.0))
    driver.now = T0 + 8
    driver.poll(due(driver, 2, 3.5))
    driver.end_pause()
    assert driver.nothing_to_take()
    assert driver.engine.begins_at(driver.now) == T0 + 13
    driver.now = T0 + 13
    assert offsets(driver.take()) == [2, 0, 1]


def test_after_a_pause_small_polls_make_one_batch() -> None:
    driver = Batched(most=10)
    driver.engine.call_limits.breaker.pause(Run(0, driver.now), Pause(), 10.0, 0.0, driver.now)
    driver.engine.paused()
    for offset in range(5):
        driver.poll(offset)
    driver.now += 10.1
    assert driver.end(driver.take()) == [0, 1, 2, 3, 4]

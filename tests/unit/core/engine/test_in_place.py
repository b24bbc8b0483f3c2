"""Tries in place: how often, after which waits, what they hold back meanwhile, and what ends them early."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.forwards import Failure
from flux.core.engine.offset_tracker import read_metadata
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Move, Pause, Reject, Retry
from flux.core.ports import CommittedOffset
from unit.support.engine_support import AWAY, T0, Driver, FakeRecord, offsets


def quick(stage: int = 0, *, tries: int = 2, wait: float = 1.0, **settings: Any) -> Driver:
    driver = Driver(stage, in_place_retries=tries, in_place_wait=wait, **settings)
    driver.assign(0)
    return driver


def attempts(driver: Driver) -> list[tuple[int, int]]:
    """Works all; (offset, attempt) of each call, in order."""
    made = []
    while (run := driver.engine.take(True, driver.now)) is not None:
        made += [(driver.message(run, i).offset, driver.message(run, i).attempt) for i in range(run.limit)]
        driver.work(run)
    return made


def headers(driver: Driver) -> list[dict[str, bytes | None]]:
    return [
        dict(forward.forwarded_copy.producer_record(0, None).headers) for forward in driver.engine.writes(driver.now)
    ]


def test_a_record_that_fails_is_called_again_after_the_wait_and_not_before() -> None:
    driver = quick()
    driver.poll(0)
    driver.work_all(0)
    assert driver.write() == []
    driver.now = T0 + 0.999
    assert driver.nothing_to_take()
    assert driver.engine.deadline(driver.now) == T0 + 1
    driver.now = T0 + 1
    assert attempts(driver) == [(0, 2)]
    assert driver.commit() == {0: CommittedOffset(1)}


def test_waits_are_doubled_and_the_last_failure_moves_the_record() -> None:
    driver = quick()
    driver.poll(0)
    assert driver.work_all(0) == [0]
    for wait in (1.0, 2.0):
        driver.now += wait - 0.001
        assert driver.nothing_to_take()
        driver.now += 0.001
        assert driver.work_all(0) == [0]
    [forward] = headers(driver)
    assert (forward["flux-attempts"], forward["flux-stage"]) == (b"3", b"1")


def test_each_stage_has_its_tries_anew_and_attempts_go_on_counting() -> None:
    driver = quick(stage=1, tries=1)
    driver.poll(driver.record(0, headers=[("flux-due", b"1"), ("flux-attempts", b"4")]))
    run = driver.take()
    assert driver.message(run, 0).attempt == 5
    assert driver.fail(run) is Move.AGAIN
    run.index += 1
    driver.engine.finished(run, driver.now)
    driver.now += 1
    assert driver.work_all(0) == [0]
    [forward] = headers(driver)
    assert forward["flux-attempts"] == b"6"


def test_the_first_failure_is_remembered_through_tries_in_place() -> None:
    driver = quick(tries=1)
    driver.poll(0)
    driver.work_all(0)
    driver.now += 1
    driver.work_all(0)
    [forward] = headers(driver)
    assert forward["flux-first-failed-at"] == str(int(T0 * 1000)).encode()
    assert forward["flux-failed-at"] == str(int(T0 * 1000) + 1000).encode()


@pytest.mark.parametrize("error", [Reject("no"), Retry(after=5)])
def test_a_call_that_says_what_is_to_become_of_the_record_is_not_tried_in_place(error: Exception) -> None:
    driver = quick()
    driver.poll(0)
    assert driver.fail(driver.take(), error) is not Move.AGAIN
    assert len(headers(driver)) == 1


def slice_of(driver: Driver, *keys: bytes | None) -> list[FakeRecord]:
    return [driver.record(offset, key) for offset, key in enumerate(keys)]


def test_a_record_holds_back_its_key_alone() -> None:
    driver = quick()
    driver.poll(*slice_of(driver, b"a", b"b", b"a", None))
    assert driver.work(driver.take(), 0) == [0]  # the rest of the slice may have more of the key
    assert driver.work_all() == [1, 3]
    driver.now += 1
    assert driver.work_all() == [0, 2]
    assert driver.commit() == {0: CommittedOffset(4)}


def test_under_order_by_partition_it_holds_back_all() -> None:
    driver = quick(ordering="partition")
    driver.poll(*slice_of(driver, b"a", b"b", None))
    driver.work(driver.take(), 0)
    assert driver.nothing_to_take()
    driver.now += 1
    assert driver.work_all() == [0, 1, 2]


def test_without_a_key_it_holds_back_nothing() -> None:
    driver = quick()
    driver.poll(*slice_of(driver, None, None))
    assert driver.work_all(0) == [0, 1]


def test_without_a_key_it_lets_none_overtake_the_rest_of_its_slice() -> None:
    driver = quick()
    driver.poll(*slice_of(driver, None, b"a", b"a"))
    run = driver.take()
    driver.fail(run)
    run.index += 1
    driver.poll(driver.record(3, b"a"), driver.record(4, b"b"))
    called = [] if run.index >= run.limit else [driver.message(run, run.index).offset]
    while (other := driver.engine.take(True, driver.now)) is not None:
        called += offsets(other)
    assert [offset for offset in called if offset != 4] == [1, 2]  # by one caller


def test_the_position_stays_below_what_waits_and_passes_it_in_the_metadata() -> None:
    driver = quick()
    driver.poll(0, 1, 2)
    driver.work_all(0)
    committed = driver.commit()[0]
    assert committed.offset == 0
    assert read_metadata(*committed) == [(1, 3)]


def test_a_stop_moves_what_waits_with_the_attempts_that_it_had() -> None:
    driver = quick()
    driver.poll(0)
    driver.work_all(0)
    driver.engine.stop()
    [forward] = driver.engine.writes(driver.now)
    assert dict(forward.forwarded_copy.producer_record(0, None).headers)["flux-attempts"] == b"1"
    assert not driver.engine.quiet
    driver.engine.written(forward, driver.now)
    assert driver.engine.quiet
    assert driver.commit() == {0: CommittedOffset(1)}


def in_place(driver: Driver) -> Run:
    """Two records have failed, and may be tried in place: a caller has the first, nobody the second."""
    driver.poll(0, 1)
    driver.work_all(0, 1)
    driver.engine.dispatch_mode.slow = True
    driver.now += 1
    run = driver.take()
    assert offsets(run) == [0]
    return run


@pytest.mark.parametrize("ends", ["stop", "revocation"])
def test_what_may_be_tried_in_place_and_has_no_caller_moves_too(ends: str) -> None:
    driver = quick()
    run = in_place(driver)
    if ends == "stop":
        driver.engine.stop()
    else:
        driver.engine.revoking([driver.p0])
    [moved] = headers(driver)
    assert (moved["flux-origin-offset"], moved["flux-attempts"]) == (b"1", b"1")
    assert driver.work(run, 0) == [0]
    [moved] = headers(driver)
    assert (moved["flux-origin-offset"], moved["flux-attempts"]) == (b"0", b"2")


def test_a_failure_of_the_process_in_place_moves_nothing() -> None:
    driver = quick()
    driver.engine.aborted(in_place(driver))
    driver.engine.stop()
    assert [moved["flux-origin-offset"] for moved in headers(driver)] == [b"1"]


def test_what_was_done_in_place_is_done() -> None:
    driver = quick()
    driver.work(in_place(driver))
    driver.work_all()
    driver.engine.stop()
    assert headers(driver) == []
    assert driver.engine.quiet
    assert driver.commit() == {0: CommittedOffset(2)}


def test_what_found_an_outage_in_place_moves_with_the_attempts_that_it_had() -> None:
    driver = quick()
    run = in_place(driver)
    driver.fail(run, Pause())
    driver.engine.paused()
    run.index += 1
    driver.engine.finished(run, driver.now)
    driver.engine.stop()
    assert [moved["flux-attempts"] for moved in headers(driver)] == [b"1", b"1"]


def test_a_revocation_moves_what_waits_before_its_partition_is_given_up() -> None:
    driver = quick()
    driver.assign(0, 0)
    driver.poll(driver.record(0, b"a"), driver.record(0, b"a", 1))
    driver.work_all(0)
    driver.engine.revoking([driver.p0])
    assert not driver.engine.drained([driver.p0])
    [forward] = driver.engine.writes(driver.now)
    assert forward.entry.assignment.partition == driver.p0
    driver.engine.written(forward, driver.now)
    assert driver.engine.drained([driver.p0])
    driver.now += 1
    assert driver.work_all() == [0]  # the other partition's is tried in place


def test_a_call_that_fails_while_its_partition_is_given_up_moves_at_once() -> None:
    driver = quick()
    driver.poll(0)
    run = driver.take()
    driver.engine.revoking([driver.p0])
    assert driver.fail(run) is Move.NEXT
    assert len(headers(driver)) == 1


def test_what_waits_is_forgotten_with_a_lost_partition() -> None:
    driver = quick()
    driver.poll(0)
    driver.work_all(0)
    driver.engine.lost([driver.p0])
    driver.now += 10
    assert driver.nothing_to_take()
    assert headers(driver) == []
    assert driver.engine.empty


def test_what_waits_for_its_products_is_tried_in_place_when_they_fail() -> None:
    driver = quick()
    driver.poll(0)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.engine.settled(entry, Failure(AWAY), driver.now) is Move.AGAIN
    driver.now += 1
    assert attempts(driver) == [(0, 2)]


def test_it_holds_the_drain_of_nothing_when_it_is_off() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    assert driver.fail(driver.take()) is Move.NEXT

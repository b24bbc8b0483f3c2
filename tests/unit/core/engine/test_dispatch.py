"""Which records may run now, and what becomes of runs: whole slices, parts of them, entries of key queues."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.batches import OpenBatch
from flux.core.engine.common import Common
from flux.core.engine.dispatch import Dispatch
from flux.core.engine.forwards import Failure
from flux.core.engine.queued_work import QueuedWork
from flux.core.engine.runs import KeyQueueRun, Run
from flux.core.engine.slice_runs import PartRun, SliceRun, WholeBatchRun
from flux.core.engine.verdicts import Pause
from flux.core.flux_headers import DUE
from flux.core.limits.backpressure import FULL
from flux.core.limits.call_limits import CallLimits
from flux.core.ports import Batch, CommittedOffset
from unit.support.engine_support import (
    P0,
    STAGES,
    T0,
    T0_MS,
    Driver,
    FakeRecord,
    assignment,
    message,
    offsets,
    policy,
    record,
)
from unit.support.order_support import Keys, Ordered


def slow(stage: int = 0, chunk: int = 10, **settings: Any) -> Driver:
    """A stage whose calls are slow, so that callers take up to `chunk` records at once."""
    driver = Driver(stage, **settings)
    driver.assign(0, 0)
    driver.engine.dispatch_mode.slow = True
    driver.engine.dispatch_mode.took(0.0, 16 * (chunk - 1))
    driver.engine.dispatch_mode.slow = True
    return driver


def keyed(driver: Driver, first: int, keys: str, due: float | None = None) -> list[FakeRecord]:
    """A record for each letter, which is its key; "-": none."""
    headers = None if due is None else [(DUE, b"%d" % (T0_MS + due * 1000))]
    return [
        driver.record(first + n, None if key == "-" else key.encode(), headers=headers) for n, key in enumerate(keys)
    ]


def taken(driver: Driver) -> Run:
    run = driver.engine.take(False, driver.now)
    assert run is not None
    return run


# -- quick calls


def test_while_calls_are_quick_a_slice_runs_whole_and_the_next_one_waits_for_it() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    driver.poll(2, 3)
    first = driver.take()
    assert type(first) is SliceRun
    assert driver.nothing_to_take()
    driver.work(first)
    assert offsets(driver.take()) == [2, 3]


def test_in_a_retry_stage_slices_in_due_order_run_if_the_metadata_has_room() -> None:
    driver = Driver(1, max_metadata=30)
    driver.assign(0)
    one, two, far = keyed(driver, 0, "abc", due=1)
    two.the_headers = [(DUE, b"%d" % (T0_MS + 500))]
    driver.poll(one, two, far)
    driver.now += 2
    assert driver.work_all() == [1, 0, 2]
    late, early = keyed(driver, 10**9, "de", due=1)
    early.the_headers = [(DUE, b"%d" % (T0_MS + 500))]
    driver.poll(late, early)
    driver.poll(*keyed(driver, 10**9 + 2, "f", due=1))
    assert sorted(driver.work_all()) == [10**9, 10**9 + 1, 10**9 + 2]
    assert driver.commit() == {0: CommittedOffset(10**9 + 3)}


def test_a_retry_stage_without_room_calls_single_records() -> None:
    driver = Driver(1, max_metadata=16)
    driver.assign(0)
    records = keyed(driver, 0, "ab", due=60)
    records[1].the_headers = [(DUE, b"%d" % T0_MS)]
    driver.poll(*records)
    driver.now += 1
    assert driver.nothing_to_take()
    driver.now += 60
    assert driver.work_all() == [0, 1]


# -- slow calls


def test_parts_of_a_slice_run_side_by_side_while_their_keys_differ() -> None:
    driver = slow()
    driver.poll(*keyed(driver, 0, "abcdefghijklm"))
    first, second = taken(driver), taken(driver)
    assert type(first) is PartRun
    assert [offsets(first), offsets(second)] == [[*range(10)], [10, 11, 12]]
    driver.work(first)
    driver.work(second)
    assert driver.work_all() == []


def test_records_whose_keys_are_taken_wait_behind_them() -> None:
    driver = slow()
    driver.poll(*keyed(driver, 0, "abcdefghij"))
    driver.poll(*keyed(driver, 10, "abcdefghij"))
    first = taken(driver)
    assert driver.nothing_to_take()
    driver.work(first)
    assert sorted(driver.work_all()) == [*range(10, 20)]


@pytest.mark.parametrize("settings", [{"ordering": "partition"}, {"max_metadata": 16}])
def test_records_become_entries_where_no_part_may_run(settings: dict[str, Any]) -> None:
    driver = slow(**settings)
    driver.poll(*keyed(driver, 0, "abcdefghij"))
    run = taken(driver)
    assert type(run) is KeyQueueRun
    assert offsets(run) == [0]
    assert driver.nothing_to_take()
    driver.work(run)
    assert driver.work_all() == [*range(1, 10)]


def test_few_records_become_entries() -> None:
    driver = slow(chunk=2)
    driver.poll(*keyed(driver, 0, "aab"))
    assert offsets(taken(driver)) == [0, 2]


def test_a_partition_with_too_many_entries_passes_its_turn() -> None:
    driver = slow(chunk=1, ordering="partition")
    driver.poll(*range(FULL + 1))
    first = taken(driver)
    driver.poll(*range(FULL + 1, FULL + 9))
    assert driver.nothing_to_take()
    driver.poll(driver.record(0, partition=1))
    assert driver.message(taken(driver), 0).partition == 1
    driver.work(first)
    assert offsets(taken(driver)) == [1]


@pytest.mark.parametrize(("ordering", "kind"), [("key", PartRun), ("partition", KeyQueueRun)])
def test_in_a_retry_stage_callers_share_what_is_due(ordering: str, kind: type[Run]) -> None:
    driver = slow(1, ordering=ordering)
    driver.poll(*keyed(driver, 0, "abcdefghijklm", due=1))
    driver.now += 2
    run = taken(driver)
    assert type(run) is kind
    driver.work(run)
    driver.work_all()
    assert driver.commit() == {0: CommittedOffset(13)}


def test_a_part_of_a_slice_in_due_order_needs_room_for_its_last_offset() -> None:
    driver = slow(1)
    records = keyed(driver, 0, "abcdefgh", due=2)
    records[7].the_headers = [(DUE, b"%d" % T0_MS)]
    driver.poll(*records)
    driver.now += 3
    run = taken(driver)
    assert type(run) is PartRun
    assert offsets(run) == [7, *range(7)]


@pytest.mark.parametrize(("chunk", "kind"), [(4, KeyQueueRun), (5, PartRun)])
def test_a_part_of_a_slice_is_worth_its_claim_from_five_records_on(chunk: int, kind: type[Run]) -> None:
    driver = slow(chunk=chunk)
    driver.poll(*range(20))
    run = taken(driver)
    assert type(run) is kind
    assert offsets(run) == [*range(chunk)]


THREE_BYTES = 16 + 4
"""Metadata with room for 24 offsets, or for one call beside none others."""
TWELVE_BYTES = 16 + 16
"""Metadata with room for 96 offsets, or for five ranges below 128 offsets and one more."""


@pytest.mark.parametrize(("chunk", "kind"), [(8, PartRun), (9, KeyQueueRun)])
def test_a_part_of_a_slice_needs_room_for_the_offsets_of_its_own_records(chunk: int, kind: type[Run]) -> None:
    driver = slow(chunk=chunk, max_metadata=THREE_BYTES)
    driver.poll(*range(0, 30, 3))
    assert type(taken(driver)) is kind


@pytest.mark.parametrize(
    ("order", "kind"), [((3, 0, 6, 9, 12, 15, 27), PartRun), ((27, 0, 3, 6, 9, 12, 15), KeyQueueRun)]
)
def test_a_part_in_due_order_needs_room_for_the_highest_offset_of_its_records(
    order: tuple[int, ...], kind: type[Run]
) -> None:
    driver = slow(1, chunk=5, max_metadata=THREE_BYTES)
    driver.poll(*(keyed(driver, offset, "-", due=order.index(offset))[0] for offset in sorted(order)))
    driver.now += 60
    assert type(taken(driver)) is kind


@pytest.mark.parametrize(("failed", "kind"), [(False, PartRun), (True, KeyQueueRun)])
def test_a_part_of_a_slice_needs_room_for_its_records_beside_those_that_are_open(failed: bool, kind: type[Run]) -> None:
    driver = slow(chunk=5, max_metadata=TWELVE_BYTES)
    driver.poll(0)
    driver.work(taken(driver), *([0] if failed else []))
    driver.engine.dispatch_mode.slow = True
    driver.poll(*range(20 if failed else 21, 140, 20))
    assert type(taken(driver)) is kind


def test_a_part_of_a_slice_needs_room_for_its_records_beside_those_that_run() -> None:
    driver = slow(chunk=5, max_metadata=TWELVE_BYTES)
    driver.poll(*range(5))
    first = taken(driver)
    driver.poll(*range(20, 140, 20))
    second = taken(driver)
    assert [type(first), type(second)] == [PartRun, KeyQueueRun]
    assert offsets(second) == [20, 40, 60, 80]


def test_calls_that_are_quick_again_are_made_by_whole_slices() -> None:
    driver = Driver()
    driver.assign(0)
    driver.engine.dispatch_mode.slow = True
    driver.poll(*range(200))
    calls = 0
    while driver.engine.dispatch_mode.slow:
        run = taken(driver)
        driver.now += 0.0001 * run.limit
        calls += len(driver.work(run))
    assert 48 <= calls < 60
    driver.work_all()
    driver.poll(*range(200, 210))
    assert type(driver.take()) is SliceRun


# -- runs


def test_a_stuck_run_is_cut_and_all_others_with_it() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(*range(4))
    stuck = driver.take()
    stuck.index = 1
    driver.poll(*[driver.record(offset, b"x", 1) for offset in range(3)])
    other = driver.take()
    assert driver.look() == [stuck, other]
    assert (stuck.limit, other.limit) == (2, 1)
    driver.work(stuck)
    driver.work(other)
    assert sorted(driver.work_all()) == [1, 2, 2, 3]


def test_failures_of_a_run_that_gets_on_are_accounted_for_meanwhile() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(*range(100))
    run = driver.take()
    run.index = 20
    run.failures.append((3, Failure(ValueError()), driver.message(run, 3)))
    driver.engine.checked(driver.now)
    assert driver.write() == [3]
    assert run.limit == 100


def test_what_ended_is_accounted_for_when_it_is_committed() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1, 2)
    run = driver.take()
    run.index = 2
    assert driver.commit() == {0: CommittedOffset(2)}
    assert driver.engine.stats.done == 2


def test_the_rest_of_a_cut_run_is_discarded_with_its_partition() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(*range(4))
    run = driver.take()
    driver.engine.revoking([driver.p0])
    assert run.limit == 1
    driver.work(run)
    assert driver.commit() == {0: CommittedOffset(1)}


@pytest.mark.parametrize("revoking", [False, True])
def test_a_call_that_found_an_outage_is_made_again_unless_its_partition_is_revoked(revoking: bool) -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(driver.record(0, b"x"), driver.record(1, b"x"))
    run = driver.take()
    if revoking:
        driver.engine.revoking([driver.p0])
    message = driver.message(run, 0)
    message.value = "decoded"
    driver.engine.failed(run, 0, message, Failure(Pause()), driver.now)
    run.index = 1
    driver.engine.finished(run, driver.now)
    assert message.value == b"v"
    assert driver.work_all() == ([] if revoking else [0, 1])


def test_a_batch_whose_partition_is_gone_gives_nothing_back() -> None:
    driver = Driver(batch=OpenBatch(2, 60.0))
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    assert isinstance(run, WholeBatchRun)
    driver.engine.lost([driver.p0])
    driver.engine.failed(run, 0, driver.message(run, 0), Failure(Pause()), driver.now)
    assert driver.nothing_to_take()


def test_a_batch_stage_passes_the_turn_of_a_partition_that_waits() -> None:
    driver = Driver(batch=OpenBatch(FULL, 60.0))
    driver.assign(0, 0)
    driver.poll(*range(FULL))
    first = driver.take()
    driver.poll(*range(FULL, 3 * FULL))
    driver.poll(*range(3 * FULL, 3 * FULL + 1))
    assert driver.nothing_to_take()
    driver.poll(*[driver.record(offset, b"x", 1) for offset in range(FULL)])
    assert driver.message(driver.take(), 0).partition == 1
    driver.work(first)
    assert offsets(driver.take()) == [*range(FULL, 2 * FULL)]


def test_entries_that_callers_have_taken_are_known() -> None:
    driver = slow(chunk=2)
    driver.poll(*keyed(driver, 0, "ab"))
    run = taken(driver)
    assert sorted(entry.offset for entry in driver.engine._dispatch.begun) == [0, 1]
    run.index = 1
    driver.engine.commit(driver.now, at_once=True)
    assert [entry.offset for entry in driver.engine._dispatch.begun] == [1]


def test_calls_that_are_found_failed_are_reported_and_what_is_cut_goes_to_others() -> None:
    shared, reported = Common(policy(), STAGES[0], CallLimits()), list[tuple[Run, int]]()
    work = QueuedWork(shared)
    dispatch = Dispatch(shared, work, lambda run, entry, failure: reported.append((run, entry.offset)))
    at = assignment(partition=P0)
    work.delivered([Batch(P0, [record(offset) for offset in range(4)])], {P0: at}, T0)
    run = dispatch.take(100, T0)
    assert run is not None
    run.note(Failure(ValueError()), message(record(0)))
    run.index = 1
    dispatch.cut_all(at)
    assert reported == [(run, 0)]
    assert run.limit == 2
    assert at.backlogged == 2
    assert shared.stats.done == 0


def test_the_key_of_a_failed_call_is_free_while_its_run_goes_on() -> None:
    driver = slow(chunk=2)
    driver.poll(*keyed(driver, 0, "aab"))
    run = taken(driver)
    driver.fail(run)
    assert offsets(run) == [0, 2]
    assert offsets(taken(driver)) == [1]


def test_a_caller_takes_entries_that_are_ready_before_a_slice() -> None:
    driver = slow(chunk=2)
    driver.poll(*keyed(driver, 0, "aab"))
    first = taken(driver)
    driver.poll(*keyed(driver, 3, "xyz"))
    driver.work(first)
    assert offsets(taken(driver)) == [1]


def test_without_concurrency_slow_calls_are_made_by_whole_slices() -> None:
    driver = slow(concurrency=1)
    driver.poll(*range(20))
    assert type(taken(driver)) is SliceRun
    driver = slow(concurrency=2)
    driver.poll(*range(20))
    assert type(taken(driver)) is PartRun


@pytest.mark.parametrize("batch", [None, OpenBatch(2, 60.0)])
def test_a_run_costs_its_calls_and_a_batch_costs_one(batch: OpenBatch | None) -> None:
    limits = CallLimits(150.0)
    driver = Driver(batch=batch, call_limits=limits)
    driver.assign(0)
    driver.poll(0, 1)
    assert driver.take().limit == 2
    next_call = limits.rate_limit.opens_at(driver.now)
    assert next_call == pytest.approx(driver.now + 0.0033, abs=1e-4) if batch is None else next_call == driver.now


def test_the_run_that_is_taken_during_a_pause_is_the_probe() -> None:
    limits = CallLimits()
    driver = Driver(call_limits=limits)
    driver.assign(0)
    driver.poll(0)
    limits.breaker.pause(None, ConnectionError(), 1.0, 0.0, driver.now)
    driver.now += 1
    run = driver.take()
    assert limits.breaker.opens_at(driver.now) is None
    driver.work(run)
    assert not limits.breaker.paused


def test_a_slice_at_the_committed_offset_runs_though_the_metadata_has_no_room() -> None:
    driver = Driver(max_metadata=16)
    driver.assign(0)
    driver.poll(*range(0, 1000, 7))
    assert type(driver.take()) is SliceRun


def test_without_order_a_slice_runs_beside_another_whole() -> None:
    driver = Driver(ordering="none")
    driver.assign(0)
    driver.poll(0, 1)
    driver.poll(2, 3)
    assert [type(driver.take()), type(driver.take())] == [SliceRun, SliceRun]


def test_a_slice_needs_room_beside_a_record_that_is_open() -> None:
    driver = Driver(max_metadata=THREE_BYTES)
    driver.assign(0)
    driver.poll(0)
    driver.work(driver.take(), 0)
    driver.poll(*range(1, 40))
    assert driver.nothing_to_take()
    driver.write()
    assert offsets(driver.take()) == [*range(1, 40)]


def test_a_slice_in_due_order_needs_room_for_all_of_its_records() -> None:
    for characters, kind in ((THREE_BYTES, KeyQueueRun), (TWELVE_BYTES, SliceRun)):
        driver = Driver(1, max_metadata=characters)
        driver.assign(0)
        driver.poll(keyed(driver, 0, "a", due=2)[0], keyed(driver, 40, "b", due=1)[0])
        driver.now += 3
        assert type(driver.take()) is kind


def test_a_commit_is_due_after_the_records_of_several_runs() -> None:
    driver = Driver(commit_interval=100.0, commit_threshold=4)
    driver.assign(0)
    driver.commit(after=0.0)
    committed = []
    for first in (0, 2):
        driver.poll(first, first + 1)
        driver.work_all()
        committed.append(driver.engine.commit(driver.now))
    assert committed == [None, {driver.p0: CommittedOffset(4)}]
    assert driver.engine.stats.done == 4


@pytest.mark.parametrize("aborted", [False, True])
def test_a_probe_without_a_call_does_not_end_the_pause(aborted: bool) -> None:
    limits = CallLimits()
    driver = Driver(call_limits=limits)
    driver.assign(0)
    driver.poll(0)
    limits.breaker.pause(None, ConnectionError(), 1.0, 0.0, driver.now)
    driver.now += 1
    run = driver.take()
    if aborted:
        driver.engine.aborted(run)
    else:
        driver.engine.finished(run, driver.now)
    assert limits.breaker.paused
    assert limits.breaker.opens_at(driver.now) == driver.now


def test_the_runs_of_other_partitions_are_not_cut_with_one() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(0, 1, 2, *(driver.record(offset, b"x", 1) for offset in range(3)))
    first, second = driver.take(), driver.take()
    driver.engine.revoking([driver.p0])
    assert (first.limit, second.limit) == (1, 3)


@pytest.mark.parametrize(("rate", "calls", "kind"), [(900.0, 10, SliceRun), (899.0, 9, PartRun)])
def test_records_are_shared_among_callers_where_a_limit_admits_few_calls(
    rate: float, calls: int, kind: type[Run]
) -> None:
    driver = Driver(rate_limit=rate)
    driver.assign(0)
    driver.poll(*range(100))
    run = driver.take()
    assert (type(run), run.limit) == (kind, calls)


def test_in_a_retry_stage_one_caller_makes_all_quick_calls_that_are_due() -> None:
    driver = Driver(1)
    driver.assign(0)
    driver.poll(*keyed(driver, 0, "-" * 300, due=1))
    driver.now += 2
    assert driver.take().limit == 300


def test_what_an_order_does_not_allow_is_taken_out_of_slices_and_key_queues() -> None:
    driver = Ordered(concurrency=2)
    driver.assign(0, 0)
    driver.poll(driver.record(0), driver.record(1), driver.record(2, b"other"), driver.record(0, partition=1))
    run = driver.take()
    driver.fail(run)
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.work_all() == [0, 2]
    assert [forward.entry.offset for forward in driver.writes()] == [0, 1]


def test_a_queued_record_behind_one_that_failed_is_not_called() -> None:
    driver = Ordered()
    driver.assign(0)
    driver.poll(driver.record(0), driver.record(1), driver.record(2, b"other"))
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.work_all() == [2]
    driver.engine.settled(entry, Failure(ValueError()), driver.now)
    assert driver.nothing_to_take()
    assert driver.settle() == ["t-g-keys"] * 2 + ["t-g-try-1"] * 2


def test_an_ordered_retry_stage_calls_entries_one_by_one_of_a_key() -> None:
    keys = Keys()
    versions = [keys.set(3), keys.set(4)]
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(*(driver.copy(at, 3 + at, version) for at, version in enumerate(versions)))
    run = driver.take()
    assert driver.work(run) == [0]
    assert driver.nothing_to_take()


def test_an_ordered_stage_whose_first_records_wait_for_room_moves_followers_away() -> None:
    keys = Keys()
    second, first = keys.set(4), keys.set(3)
    driver = Ordered(1, keys, max_metadata=0)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 4, second), driver.copy(1, 3, first))
    assert driver.nothing_to_take()
    assert len(driver.writes()) == 1

"""Runs of slices: what their calls account for, and what they give back."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.assignment import Assignment, Event
from flux.core.engine.batches import Batches, OpenBatch
from flux.core.engine.forwards import Failure
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.slice_runs import SliceRun, WholeBatchRun
from flux.core.engine.slices import Slice
from unit.support.engine_support import assignment, entry, record


def delivered(offsets: int, max_metadata: int = 4095) -> tuple[Assignment, Slice]:
    owner = assignment(max_metadata=max_metadata)
    [piece] = owner.deliver([record(offset, b"%d" % offset) for offset in range(offsets)])
    return owner, piece


def position(owner: Assignment) -> int:
    assert owner.committable is not None
    return owner.committable.offset


def test_failures_are_told_apart_from_the_calls_before_and_after_them() -> None:
    owner, piece = delivered(6)
    run, key_queues = SliceRun(owner, piece, 0.0), KeyQueues("key")
    failures = [Failure(ValueError()) for _ in range(3)]
    for number, failure in zip((0, 2, 4), failures, strict=True):
        run.index = number
        run.note(failure, piece.message(number))
    run.index = 4
    assert len(run.failures) == 3
    done, failed = run.settle(4, key_queues)
    assert (done, [(one.offset, failure) for one, failure in failed]) == (2, [(0, failures[0]), (2, failures[1])])
    assert run.settle(4, key_queues) == (0, [])
    done, [(last, _)] = run.settle(5, key_queues)
    assert (done, last.offset, position(owner)) == (0, 4, 0)
    assert run.settle(6, key_queues) == (1, [])
    assert run.failures == []


def test_a_slice_in_due_order_is_done_by_offset() -> None:
    owner, piece = delivered(3)
    shuffled = Slice(piece.records[::-1], 0, None, [1, 2, 3], [3, 2, 1])
    run = SliceRun(owner, shuffled, 0.0)
    assert run.settle(2, KeyQueues("key")) == (2, [])
    assert position(owner) == 0
    assert run.settle(3, KeyQueues("key")) == (1, [])
    assert (position(owner), run.due_times(2)) == (3, [1, 2])


def test_a_slice_is_divided_once_and_its_current_call_keeps_its_key() -> None:
    owner, piece = delivered(4)
    run, key_queues = SliceRun(owner, piece, 0.0), KeyQueues("key")
    assert run.due_times(2) == [record(0).the_timestamp] * 2
    run.index = 1
    index = run.cut()
    rest = run.divide(index, key_queues)
    assert rest is not None
    assert [each.offset() for each in rest.records] == [2, 3]
    assert run.divide(index, key_queues) is None
    key_queues.add(entry(owner, 9, b"1"))
    assert key_queues.take(9, 0.0) == []
    run.index = 2
    assert (run.offset, list(run.assignments())) == (2, [owner])
    run.settle(2, key_queues)
    run.finish(key_queues)
    assert [one.offset for one in key_queues.take(9, 0.0)] == [9]


def test_the_last_call_of_a_slice_leaves_no_rest() -> None:
    owner, piece = delivered(2)
    run, key_queues = SliceRun(owner, piece, 0.0), KeyQueues("key")
    assert run.divide(2, key_queues) is None
    assert run.divide(1, key_queues) is None
    assert run.hold_back(1, piece.message(1), key_queues) is not None
    run.finish(key_queues)
    untouched = SliceRun(owner, piece, 0.0)
    assert untouched.hold_back(1, piece.message(1), key_queues) is None
    assert untouched.part(0, piece.message(0), key_queues).offset == 0


def test_a_batch_of_a_partition_that_is_gone_holds_nothing_back() -> None:
    owner, piece = delivered(3)
    run = WholeBatchRun(owner, piece, 0.0)
    owner.to(Event.LOST)
    assert run.hold_back(0, piece.message(0), Batches(OpenBatch(3, 0.0), "key")) is None


def test_calls_that_end_after_their_partition_is_gone_count_for_nothing() -> None:
    owner, piece = delivered(3)
    run = SliceRun(owner, piece, 0.0)
    owner.to(Event.LOST)
    run.settle(3, KeyQueues("key"))
    assert position(owner) == 0
    assert run.divide(0, KeyQueues("key")) is None


def test_a_batch_of_a_slice_is_one_call_and_is_not_divided() -> None:
    owner, piece = delivered(3)
    batches = Batches(OpenBatch(3, 0.0), "key")
    run = WholeBatchRun(owner, piece, 0.0)
    assert run.batched
    assert (run.cut(), run.limit) == (0, 3)
    assert run.divide(0, batches) is None
    held = run.hold_back(0, piece.message(0), batches)
    assert held is not None
    assert held.offset == 0


def test_calls_between_and_after_failures_are_done() -> None:
    owner, piece = delivered(6)
    run = SliceRun(owner, piece, 0.0)
    for run.index in (1, 3, 5):
        run.note(Failure(ValueError()), piece.message(run.index))
    done, failed = run.settle(6, KeyQueues("key"))
    assert done == 3
    assert [(one.assignment, one.message.offset) for one, _ in failed] == [(owner, 1), (owner, 3), (owner, 5)]
    tracker = owner.offset_tracker
    assert tracker is not None
    assert [tracker.is_done(offset) for offset in range(6)] == [True, False] * 3


def test_a_run_of_a_retry_topic_has_the_messages_that_were_read_when_they_came() -> None:
    owner, piece = delivered(2)
    messages = [piece.message(0), piece.message(1)]
    run = SliceRun(owner, Slice(piece.records, 2, messages, [1, 2], [1, 2]), 0.0)
    assert (run.messages, run.entries) == (messages, None)


@pytest.mark.parametrize("take", [SliceRun.part, SliceRun.hold_back])
def test_a_call_that_was_taken_out_is_not_accounted_for_again(take: Any) -> None:
    owner, piece = delivered(3)
    run, key_queues = SliceRun(owner, piece, 0.0), KeyQueues("key")
    run.settle(1, key_queues)
    take(run, 1, piece.message(1), key_queues)
    assert run.settle(2, key_queues) == (0, [])
    assert run.settle(3, key_queues) == (1, [])
    assert position(owner) == 1


def test_a_single_record_after_the_current_call_is_given_back() -> None:
    owner, piece = delivered(2)
    rest = SliceRun(owner, piece, 0.0).divide(0, KeyQueues("key"))
    assert rest is not None
    assert [each.offset() for each in rest.records] == [1]


def test_a_record_of_a_batch_that_is_held_back_is_not_accounted_for() -> None:
    owner, piece = delivered(3)
    batches = Batches(OpenBatch(3, 0.0), "key")
    run = WholeBatchRun(owner, piece, 0.0)
    run.settle(1, batches)
    message = piece.message(1)
    held = run.hold_back(1, message, batches)
    assert held is not None
    assert held.message is message
    assert run.settle(2, batches) == (0, [])
    assert run.settle(3, batches) == (1, [])
    assert position(owner) == 1


def test_calls_before_and_after_a_failure_are_done() -> None:
    owner, piece = delivered(4)
    run = SliceRun(owner, piece, 0.0)
    run.index = 1
    run.note(Failure(ValueError()), piece.message(1))
    run.settle(4, KeyQueues("key"))
    assert owner.offset_tracker is not None
    assert (position(owner), list(owner.offset_tracker.ranges())) == (1, [(2, 4)])


def test_many_calls_in_due_order_are_done_beside_what_was_done_before() -> None:
    owner, piece = delivered(12)
    tracker = owner.offset_tracker
    assert tracker is not None
    tracker.done(5, 6)
    offsets = [10, 8, 3, 1]
    due = Slice([piece.records[at] for at in offsets], 0, None, [1, 2, 3, 4], [at + 1 for at in offsets])
    SliceRun(owner, due, 0.0).settle(4, KeyQueues("key"))
    assert list(tracker.ranges()) == [(1, 2), (3, 4), (5, 6), (8, 9), (10, 11)]

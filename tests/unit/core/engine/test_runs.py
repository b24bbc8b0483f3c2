"""Slices and the race of a cut with the caller that it takes work away from."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.assignment import Assignment, Event
from flux.core.engine.batches import Batches, OpenBatch
from flux.core.engine.forwards import Failure
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.runs import BatchRun, KeyQueueRun, Run, SliceRun, WholeBatchRun
from flux.core.engine.slices import Entry, Slice
from flux.core.engine.verdicts import Move, Rules
from flux.core.limits.dispatch_mode import LOOK
from unit.support.engine_support import P1, Driver, assignment, entry, offsets, record


class RacingRun(SliceRun):
    """Its caller goes on to the next call between two readings of `index`."""

    __slots__ = ("_really", "races")

    @property
    def index(self) -> int:
        at: int = self._really
        if self.races:
            self.races -= 1
            self._really += 1
        return at

    @index.setter
    def index(self, value: int) -> None:
        self._really = value
        self.races = 0


def racing(calls: int, at: int, races: int) -> Run:
    made: Any = RacingRun(assignment(), Slice([record(offset) for offset in range(calls)], calls), 0.0)
    made.index = at
    made.races = races
    return made  # type: ignore[no-any-return]


@pytest.mark.parametrize("races", [0, 1, 2])
def test_a_cut_leaves_the_caller_the_call_that_it_is_in(races: int) -> None:
    run = racing(9, 3, races)
    assert run.cut() == 3 + races
    assert run.limit == 4 + races


def test_a_cut_never_gives_a_caller_more_than_it_had() -> None:
    run = racing(3, 2, 1)
    assert run.cut() == 3
    assert run.limit == 3


def test_a_second_cut_gives_nothing_back_that_the_first_took() -> None:
    run = racing(9, 1, 0)
    run.cut()
    setattr(run, "races", 1)  # noqa: B010
    run.cut()
    assert run.limit == 2


def test_when_another_partition_is_stuck_a_slice_that_gets_on_keeps_its_keys() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(*[driver.record(offset, b"x", 1) for offset in range(100)])
    driver.poll(driver.record(100, b"x", 1))
    quick = driver.take()
    driver.poll(0)
    stuck = driver.take()
    driver.now += LOOK
    assert driver.engine.looked(driver.now) == []
    quick.index = 50
    driver.now += LOOK
    assert driver.engine.looked(driver.now) == [stuck]
    others = driver.engine.take(False, driver.now)
    assert others is None or 100 not in offsets(others)
    assert 100 not in offsets(quick)


def test_without_order_slices_of_a_partition_run_side_by_side() -> None:
    driver = Driver(ordering="none")
    driver.assign(0)
    driver.poll(0, 1)
    driver.poll(2, 3)
    first, second = driver.take(), driver.take()
    driver.work(second)
    assert driver.commit()[0].offset == 0
    driver.work(first)
    assert driver.commit()[0].offset == 4


def test_what_two_cut_slices_leave_is_worked_from_the_lowest_offset() -> None:
    driver = Driver(ordering="none", max_metadata=16 + 8, concurrency=1)
    driver.assign(0)
    driver.poll(0, 2, 4)
    driver.poll(100, 102, 104, 106)
    first = driver.take()
    driver.now += LOOK
    driver.engine.looked(driver.now)
    driver.now += LOOK
    second = driver.take()
    assert driver.engine.looked(driver.now) == [first]
    driver.work(first)
    driver.work(second)
    assert offsets(driver.take())[0] == 2


def test_a_slice_whose_call_finds_an_outage_gives_back_the_rest_of_it_once() -> None:
    driver = Driver(rules=Rules(pause_on=(ConnectionError,)))
    driver.assign(None)
    driver.poll(*range(5))
    run = driver.take()
    away = ConnectionError("away")
    assert driver.fail(run, away) is Move.PAUSE
    driver.engine.call_limits.breaker.pause(run, away, 1.0, 0.0, driver.now)
    driver.engine.paused()
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    driver.now += 1
    assert driver.work_all() == [0, 1, 2, 3, 4]
    assert driver.commit()[0].offset == 5


# -- each kind of run


def delivered(offsets: int, max_metadata: int = 4095) -> tuple[Assignment, Slice]:
    owner = assignment(max_metadata=max_metadata)
    [piece] = owner.deliver([record(offset, b"%d" % offset) for offset in range(offsets)])
    return owner, piece


def position(owner: Assignment) -> int:
    assert owner.committable is not None
    return owner.committable.offset


def entries(*numbers: int) -> tuple[KeyQueues, Assignment, list[Entry]]:
    """Entries that a caller has taken."""
    key_queues, owner = KeyQueues("key"), assignment()
    made = [entry(owner, number, b"%d" % number, due=number) for number in numbers]
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(0, max(numbers) + 1)
    for one in made:
        key_queues.add(one)
    assert key_queues.take(99, 0.0) == made
    return key_queues, owner, made


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


def test_calls_that_end_after_their_partition_is_gone_count_for_nothing() -> None:
    owner, piece = delivered(3)
    run = SliceRun(owner, piece, 0.0)
    owner.to(Event.LOST)
    run.settle(3, KeyQueues("key"))
    assert position(owner) == 0
    assert run.divide(0, KeyQueues("key")) is None
    key_queues, other, [one] = entries(0)
    keyed = KeyQueueRun([one], 0.0)
    other.to(Event.LOST)
    assert keyed.settle(1, key_queues) == (1, [])
    assert position(other) == 0


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


def test_entries_are_done_one_by_one_and_give_back_what_was_not_started() -> None:
    key_queues, owner, made = entries(0, 1, 2)
    run, failure = KeyQueueRun(list(made), 0.0), Failure(ValueError())
    assert (run.offset, list(run.assignments()), run.due_times(3)) == (0, [owner], [made[0].message.timestamp, 1, 2])
    run.note(failure, made[0].message)
    run.index = 1
    assert run.settle(1, key_queues) == (0, [(made[0], failure)])
    assert run.settle(1, key_queues) == (0, [])
    assert run.divide(run.cut(), key_queues) is None
    assert run.entries == made[:2]
    assert run.divide(1, key_queues) is None
    assert key_queues.take(9, 0.0) == [made[2]]
    assert run.part(1, made[1].message, key_queues) is made[1]
    assert (position(owner), run.offset) == (0, 1)


def test_entries_of_a_partition_that_is_revoked_are_not_given_back() -> None:
    key_queues, owner, [one] = entries(0)
    revoked = assignment(partition=P1)
    other = entry(revoked, 0, b"x")
    assert revoked.offset_tracker is not None
    revoked.offset_tracker.delivered(0, 1)
    key_queues.add(other)
    key_queues.take(9, 0.0)
    run = KeyQueueRun([one, other], 0.0)
    owner.running[run] = revoked.running[run] = None
    revoked.to(Event.REVOKING)
    run.divide(run.cut(), key_queues)
    assert (list(owner.running), list(revoked.running)) == ([run], [])
    assert key_queues.take(9, 0.0) == []
    assert run.hold_back(0, one.message, key_queues) is one


@pytest.mark.parametrize("kind", [WholeBatchRun, BatchRun])
def test_a_batch_is_one_call_and_is_not_divided(kind: type[Run]) -> None:
    owner, piece = delivered(3)
    batches = Batches(OpenBatch(3, 0.0), "key")
    run: Run
    if kind is WholeBatchRun:
        run = WholeBatchRun(owner, piece, 0.0)
    else:
        run = BatchRun([piece.entry(owner, index, piece.message(index)) for index in range(3)], 0.0)
    assert run.batched
    assert (run.cut(), run.limit) == (0, 3)
    assert run.divide(0, batches) is None
    held = run.hold_back(0, piece.message(0), batches)
    assert held is not None
    assert held.offset == 0


def test_a_batch_of_a_partition_that_is_gone_holds_nothing_back() -> None:
    owner, piece = delivered(3)
    run = WholeBatchRun(owner, piece, 0.0)
    owner.to(Event.LOST)
    assert run.hold_back(0, piece.message(0), Batches(OpenBatch(3, 0.0), "key")) is None

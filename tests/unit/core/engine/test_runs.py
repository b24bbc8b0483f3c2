"""Slices and the race of a cut with the caller that it takes work away from."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.assignment import Assignment, Event
from flux.core.engine.batches import Batches, OpenBatch
from flux.core.engine.forwards import Failure
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.runs import BatchRun, KeyQueueRun, OrderedRun, Run
from flux.core.engine.slice_runs import SliceRun
from flux.core.engine.slices import Entry, Slice
from flux.core.engine.verdicts import Move, Rules
from flux.core.limits.dispatch_mode import CHECK_INTERVAL
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
    driver.now += CHECK_INTERVAL
    assert driver.engine.checked(driver.now) == []
    quick.index = 50
    driver.now += CHECK_INTERVAL
    assert driver.engine.checked(driver.now) == [stuck]
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
    driver.now += CHECK_INTERVAL
    driver.engine.checked(driver.now)
    driver.now += CHECK_INTERVAL
    second = driver.take()
    assert driver.engine.checked(driver.now) == [first]
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


def test_calls_that_end_after_their_partition_is_gone_count_for_nothing() -> None:
    key_queues, owner, [one] = entries(0)
    run = KeyQueueRun([one], 0.0)
    owner.to(Event.LOST)
    assert run.settle(1, key_queues) == (1, [])
    assert position(owner) == 0


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


def test_a_batch_of_entries_is_one_call_and_is_not_divided() -> None:
    _, owner, made = entries(0, 1, 2)
    batches = Batches(OpenBatch(3, 0.0), "key")
    run = BatchRun(made, 0.0)
    assert (run.batched, run.cut(), run.limit) == (True, 0, 3)
    assert run.divide(0, batches) is None
    assert run.hold_back(0, made[0].message, batches) is made[0]
    assert list(run.assignments()) == [owner]


def test_a_failure_is_accounted_for_with_its_own_call() -> None:
    key_queues, _, made = entries(0, 1)
    run, failure = KeyQueueRun(list(made), 0.0), Failure(ValueError())
    run.index = 1
    run.note(failure, made[1].message)
    assert run.settle(1, key_queues) == (1, [])
    assert run.settle(2, key_queues) == (0, [(made[1], failure)])


def test_failures_of_later_calls_wait_until_their_calls_are_accounted_for() -> None:
    key_queues, _, made = entries(0, 1, 2)
    run, failures = KeyQueueRun(list(made), 0.0), [Failure(ValueError()) for _ in range(3)]
    for run.index in range(3):
        run.note(failures[run.index], made[run.index].message)
    for number in range(3):
        assert run.settle(number + 1, key_queues) == (0, [(made[number], failures[number])])


def test_a_new_run_has_made_no_call_and_was_not_looked_at() -> None:
    run = Run(3, 5.0)
    assert (run.index, run.limit, run.marked, run.calls, run.started) == (0, 3, 0, 3, 5.0)
    assert (run.refused, run.seen, run.checks, run.failures) == (0, 0, 0, [])


@pytest.mark.parametrize("take", [KeyQueueRun.part, KeyQueueRun.hold_back])
def test_a_call_that_was_taken_out_is_not_accounted_for_again(take: Any) -> None:
    key_queues, owner, made = entries(0, 1, 2)
    run = KeyQueueRun(list(made), 0.0)
    run.settle(1, key_queues)
    assert take(run, 1, made[1].message, key_queues) is made[1]
    assert run.settle(2, key_queues) == (0, [])
    assert run.settle(3, key_queues) == (1, [])
    assert position(owner) == 1


def test_a_run_whose_partition_does_not_list_it_can_be_divided() -> None:
    key_queues, _, [one] = entries(0)
    other = entry(assignment(partition=P1), 0, b"x")
    key_queues.add(other)
    key_queues.take(9, 0.0)
    run = KeyQueueRun([one, other], 0.0)
    run.divide(run.cut(), key_queues)
    assert key_queues.take(9, 0.0) == [other]


def test_a_run_of_an_ordered_stage_reports_what_has_succeeded_and_counts_nothing_as_done() -> None:
    owner, key_queues, ended = assignment(), KeyQueues("none"), []
    entries = [entry(owner, offset) for offset in range(3)]
    for each in entries:
        key_queues.add(each)
    run = OrderedRun(key_queues.take(3, 0.0), 0.0, lambda one: ended.append(one.offset))
    assert run.settle(0, key_queues) == (0, [])
    run.index = 1
    run.note(Failure(ValueError()), entries[1].message)
    run.index = 2
    done, failed = run.settle(2, key_queues)
    assert (done, [one.offset for one, _ in failed], ended) == (1, [1], [0])
    assert run.settle(2, key_queues) == (0, [])
    owner.to(Event.LOST)
    run.settle(3, key_queues)
    assert ended == [0]

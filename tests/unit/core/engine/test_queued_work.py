"""Records in memory are bounded: partitions are paused, and a full stage stops polling for a moment first."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.assignment import Assignment, Event
from flux.core.engine.common import Common
from flux.core.engine.crashes import Crashes, Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.engine.queued_work import QueuedWork
from flux.core.limits.backpressure import FULL, PATIENCE
from flux.core.limits.call_limits import CallLimits
from flux.core.ports import Batch, CommittedOffset, PollResult
from flux.core.stage import Stages
from unit.support.engine_support import P0, P1, STAGES, T0, T0_MS, Driver, FakeRecord, assignment, policy, record
from unit.support.order_support import Keys, Ordered


def due(driver: Driver, offset: int, after: float, key: bytes | None = None, **fields: Any) -> FakeRecord:
    """A record that is due `after` seconds from the start."""
    header = ("flux-due", str(T0_MS + int(after * 1000)).encode())
    return driver.record(offset, key, headers=[header], **fields)


def retrying(stage: int = 1, **settings: Any) -> Driver:
    driver = Driver(stage, **settings)
    driver.assign(0, 0)
    return driver


@pytest.mark.parametrize("bound", [{"max_waiting": 8}, {"max_waiting_bytes": 8}])
def test_waiting_is_bounded_and_a_full_partition_is_paused_until_half_is_gone(bound: dict[str, int]) -> None:
    driver = retrying(**bound)
    driver.poll(*(due(driver, offset, offset) for offset in range(1, 5)))
    turn = driver.turn()
    assert turn.pause == (driver.p0,)
    assert turn.poll > 0
    changes = []
    for _ in range(3):
        driver.now += 1
        driver.work_all()
        turn = driver.turn()
        changes.append((turn.pause, turn.resume))
    assert changes == [((), ()), ((), ()), ((), (driver.p0,))]


def test_a_pause_is_not_remembered_across_a_revocation() -> None:
    driver = retrying(max_waiting=2)
    driver.poll(due(driver, 0, 5))
    assert driver.turn().pause == (driver.p0,)
    driver.engine.revoking([driver.p0])
    driver.engine.revoked([driver.p0])
    driver.assign(0)
    assert driver.turn().pause == ()
    driver.poll(due(driver, 0, 5), due(driver, 1, 5))
    assert driver.turn().pause == (driver.p0,)


def test_what_waits_is_forgotten_at_a_revocation() -> None:
    driver = retrying()
    driver.poll(due(driver, 0, 5), due(driver, 0, 5, partition=1))
    driver.engine.revoking([driver.p0])
    driver.engine.revoked([driver.p0])
    assert driver.engine.waiting == 1
    driver.now = T0 + 5
    run = driver.take()
    assert driver.message(run, 0).partition == 1


def test_a_partition_of_the_main_stage_that_has_too_much_is_paused_and_the_other_is_polled() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(*range(2 * FULL))
    turn = driver.turn()
    assert turn.pause == (driver.p0,)
    assert turn.poll > 0
    driver.work_all()
    assert driver.turn().resume == (driver.p0,)


def test_a_full_stage_does_not_poll_for_a_while_and_then_pauses_and_polls() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(*range(FULL))
    assert driver.turn().poll == 0
    turn = driver.turn(after=PATIENCE)
    assert turn.pause == (driver.p0,)
    assert turn.poll > 0
    driver.work_all()
    assert driver.turn().resume == (driver.p0,)


# -- the parts of it


def queued(stage: int = 0, **settings: Any) -> tuple[QueuedWork, Assignment]:
    return QueuedWork(Common(policy(**settings), STAGES[stage], CallLimits())), assignment()


def batch(*offsets: int, first_due: float = 0.0) -> list[Batch]:
    """Records that are due a second apart, from `first_due` seconds after the start."""
    return [Batch(P0, [due(Driver(), offset, first_due + n, b"%d" % offset) for n, offset in enumerate(offsets)])]


def test_records_of_a_partition_that_is_not_owned_are_left_out() -> None:
    work, owner = queued()
    work.delivered(batch(0), {}, T0)
    assert len(work) == 0
    owner.to(Event.REVOKING)
    work.delivered(batch(0), {P0: owner}, T0)
    assert len(work) == 0


def test_in_the_main_stage_records_go_into_the_backlog_and_can_become_entries() -> None:
    work, owner = queued()
    work.delivered(batch(0, 1), {P0: owner}, T0)
    assert (owner.backlogged, work.available(T0), work.may_split(owner)) == (2, 1, True)
    piece = work.backlogs.take()
    work.give_back(owner, piece)
    assert work.available(T0) == 1
    work.split()
    assert (owner.backlogged, owner.in_key_queues, work.available(T0)) == (0, 2, 2)
    owner.in_key_queues = FULL
    assert not work.may_split(owner)
    work.discard(owner)
    assert work.available(T0) == 0


def test_in_a_retry_stage_what_is_given_back_waits_in_due_order_again() -> None:
    work, owner = queued(1)
    work.delivered(batch(0, 1), {P0: owner}, T0)
    assert work.available(T0) == 1
    assert work.release_due(T0 + 5, 9)
    assert not work.release_due(T0 + 5, 9)
    piece = work.backlogs.take()
    work.delivered(batch(2, first_due=0.5), {P0: owner}, T0 + 5)
    assert work.release_due(T0 + 5, 9)
    work.give_back(owner, piece)
    assert (len(work.backlogs), len(work.delay_queue)) == (0, 3)
    work.release_due(T0 + 5, 9)
    assert [record.offset() for each in owner.backlog for record in each.records] == [0, 2, 1]


def test_due_records_become_ready_as_many_as_are_wanted() -> None:
    work, owner = queued(1)
    work.delivered(batch(*range(6)), {P0: owner}, T0)
    work.split_due(T0 + 60, 2)
    assert (owner.in_key_queues, owner.waiting) == (2, 4)
    work.release_up_to(T0 + 60, 4)
    assert (owner.backlogged, owner.waiting) == (4, 0)
    entries = work._common.key_queues.take(9, T0)
    assert [(entry.offset, entry.message.stage) for entry in entries] == [(0, 1), (1, 1)]


def test_with_few_records_no_partition_is_looked_at() -> None:
    work, owner = queued()
    assert work.pauses({P0: owner}, False, T0) == ([], [], False)
    owner.backlogged = 2 * FULL
    assert work.pauses({P0: owner}, True, T0) == ([P0], [], True)
    assert work.paused


def test_each_poll_adds_what_came_more_than_a_second_after_its_time() -> None:
    driver = retrying()
    driver.now += 60
    late = []
    for first in (0, 10):
        driver.poll(*(due(driver, first + n, after) for n, after in enumerate((1, 58.9, 59, 60.5))))
        late.append(driver.engine.stats.late)
    assert late == [2, 4]


@pytest.mark.parametrize("stage", [0, 1])
def test_batches_of_partitions_that_are_not_ours_any_more_hide_no_others(stage: int) -> None:
    driver = retrying(stage)
    driver.engine.revoking([driver.p0])
    driver.poll(*(driver.record(0, b"x", number, headers=[("flux-due", b"1")]) for number in (7, 0, 1)))
    assert driver.message(driver.take(), 0).partition == 1


def test_an_entry_has_its_records_value_and_the_time_of_its_delivery() -> None:
    shared = Common(policy(), STAGES[0], CallLimits())
    work, owner = QueuedWork(shared), assignment()
    work.delivered([Batch(P0, [record(0), record(1)])], {P0: owner}, T0)
    assert len(work) == 1
    work.split()
    assert len(work) == 2
    [first] = shared.key_queues.take(1, T0)
    assert (first.message.value, first.message.stage, first.since) == (b"v", 0, T0)


def test_any_slice_of_a_partition_with_room_becomes_entries() -> None:
    work, full, free = QueuedWork(Common(policy(), STAGES[0], CallLimits())), assignment(), assignment(partition=P1)
    for owner in (full, free):
        work.delivered([Batch(owner.partition, [record(0, partition=owner.partition)])], {owner.partition: owner}, T0)
    full.in_key_queues = FULL
    assert (work.split_any(), free.in_key_queues, full.backlogged) == (True, 1, 1)
    assert not work.split_any()


def test_with_limits_by_name_a_partition_without_room_offers_no_call() -> None:
    settings = policy(concurrency_key=lambda message: message.key)
    work, owner = QueuedWork(Common(settings, STAGES[0], CallLimits.of(settings))), assignment()
    work.delivered([Batch(P0, [record(0)])], {P0: owner}, T0)
    assert work.available(T0) == 1
    owner.in_key_queues = FULL
    assert work.available(T0) == 0


# ---- records with names: delayed work with an id


def named(driver: Driver, offset: int, after: float, kind: str = "flux-id", name: bytes = b"x") -> FakeRecord:
    due_at = str(T0_MS + int(after * 1000)).encode()
    return driver.record(offset, headers=[("flux-attempts", b"0"), ("flux-due", due_at), (kind, name)])


def called(driver: Driver) -> list[int]:
    """Offsets whose call is made, of all that are taken."""
    made: list[int] = []
    while (run := driver.engine.take(True, driver.now)) is not None:
        messages = [driver.message(run, index) for index in range(run.limit)]
        made += [each.offset for each in messages if each.named is None or each.named.begin()]
        driver.work(run)
    return made


def at_the_end(driver: Driver) -> None:
    driver.engine.polled(PollResult(reached={driver.p0: driver.engine.read_offsets()[driver.p0]}), driver.now)


def test_of_two_records_with_an_id_the_later_is_called() -> None:
    driver = retrying()
    driver.poll(named(driver, 0, 5), named(driver, 1, 3), due(driver, 2, 1))
    at_the_end(driver)
    driver.now += 10
    assert called(driver) == [2, 1]
    assert driver.engine.stats.replaced == 1
    assert driver.commit() == {0: CommittedOffset(3)}


def test_records_with_an_id_wait_until_their_partition_was_read_to_its_end() -> None:
    driver = retrying()
    driver.poll(named(driver, 0, 0))
    driver.now += 10
    assert driver.nothing_to_take()
    assert driver.engine.waiting == 1
    driver.poll(named(driver, 1, 0, "flux-cancelled"))
    assert driver.nothing_to_take()
    at_the_end(driver)
    assert called(driver) == []
    assert driver.commit() == {0: CommittedOffset(2)}
    driver.poll(named(driver, 2, 0))
    assert called(driver) == [2]


def test_a_partition_that_was_at_its_end_before_the_first_id_withholds_nothing() -> None:
    driver = retrying()
    at_the_end(driver)
    driver.poll(named(driver, 0, 0))
    assert called(driver) == [0]


def test_records_without_a_name_wait_for_no_end() -> None:
    driver = retrying()
    driver.poll(due(driver, 0, 0))
    assert called(driver) == [0]


def test_what_is_withheld_is_released_when_it_takes_too_long_or_there_is_no_more_room() -> None:
    driver = retrying()
    driver.poll(named(driver, 0, 0))
    driver.now += 20
    driver.poll(named(driver, 1, 0, name=b"y"))
    assert driver.nothing_to_take()
    driver.now += 10
    driver.poll()
    assert called(driver) == [0, 1]

    full = retrying(max_waiting=2)
    full.poll(named(full, 0, 0), named(full, 1, 0, name=b"y"))
    assert full.turn().pause == (full.p0,)
    full.poll()
    assert called(full) == [0, 1]


def test_what_another_owner_has_completed_still_replaces_what_waits() -> None:
    tracker = OffsetTracker(0, (), 4095)
    tracker.delivered(0, 4)
    tracker.done(2, 4)
    driver = retrying()
    driver.assign(CommittedOffset(0, tracker.metadata()))
    driver.poll(named(driver, 0, 0), named(driver, 1, 0, name=b"y"), named(driver, 2, 0), due(driver, 3, 0))
    at_the_end(driver)
    assert called(driver) == [1]
    assert driver.commit() == {0: CommittedOffset(4)}


def test_only_the_first_retry_stage_looks_at_names() -> None:
    for stage in (STAGES[2], Stages("t", "g", 0)[1]):
        driver = Driver(stage)
        driver.assign(0, 0)
        driver.poll(named(driver, 0, 0), named(driver, 1, 0))
        at_the_end(driver)
        assert called(driver) == [0, 1]


def test_a_void_record_is_out_of_the_way_at_once() -> None:
    driver = retrying()
    at_the_end(driver)
    driver.poll(named(driver, 0, 1e6, "flux-cancelled"))
    assert called(driver) == []
    assert driver.commit() == {0: CommittedOffset(1)}


@pytest.mark.parametrize("stage", [0, 1])
def test_the_first_records_that_may_be_called_make_a_commit_due(stage: int) -> None:
    work, _ = queued(stage, max_crashes=2)
    owner = Assignment(P0, 0, [], None, 0, 4095, Crashes(3))
    work.delivered(batch(0, 1, first_due=T0 if stage else 0.0), {P0: owner}, T0)
    if stage:
        assert owner.crashes.mark is None
        assert work.release_due(T0 + 10_000, 10)
    assert owner.crashes.mark == Mark(0)
    assert work._common.commits.due(T0 + 10_000)
    assert len(work) == 1
    assert list(work.backlogs.held) == [owner]


def test_due_records_that_are_held_are_not_split() -> None:
    work, _ = queued(1, max_crashes=2)
    owner = Assignment(P0, 0, [], None, 0, 4095, Crashes(3))
    work.delivered(batch(0, 1, first_due=T0), {P0: owner}, T0)
    work.split_due(T0 + 10_000, 10)
    assert (len(work.backlogs), owner.backlogged, owner.in_key_queues) == (0, 2, 0)


def test_what_another_owner_has_completed_is_passed_in_the_order_of_the_log() -> None:
    tracker = OffsetTracker(0, (), 4095)
    tracker.delivered(0, 3)
    tracker.done(1, 3)
    driver = retrying()
    driver.assign(CommittedOffset(0, tracker.metadata()))
    tick = [("flux-attempts", b"0"), ("flux-due", str(T0_MS).encode()), ("flux-tick", b"60"), ("flux-schedule", b"s")]
    # the first record of a tick waits; a second one was left out by the other owner
    driver.poll(driver.record(0, headers=tick), driver.record(1, headers=tick), due(driver, 2, 0))
    at_the_end(driver)
    assert called(driver) == [0]


def test_records_that_wait_for_another_one_of_their_key_are_queued_until_their_partition_goes() -> None:
    keys = Keys()
    keys.set(2)
    version = keys.set(3)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version))
    assert driver.nothing_to_take()
    work = driver.engine._work
    assert len(work) == 1
    [owner] = driver.engine._partitions.assignments.values()
    work.discard(owner)
    assert len(work) == 0


def test_what_came_in_one_poll_is_withheld_together_and_called_in_due_order() -> None:
    tracker = OffsetTracker(0, (), 4095)
    tracker.delivered(0, 3)
    tracker.done(1, 2)
    driver = retrying()
    driver.assign(CommittedOffset(0, tracker.metadata()))
    driver.poll(due(driver, 0, 2, b"k"), due(driver, 1, 0), named(driver, 2, 1))
    driver.now += 5
    assert driver.nothing_to_take()
    at_the_end(driver)
    assert called(driver) == [2, 0]


def test_a_record_that_is_to_be_called_alone_is_put_back() -> None:
    driver = Ordered(max_crashes=2)
    driver.assign(0)
    driver.poll(0)
    work = driver.engine._work
    [owner] = driver.engine._partitions.assignments.values()
    piece = work.backlogs.take_held(owner)
    work.hold_alone(piece.entry(owner, 0, piece.message(0)))
    assert [each.records for each in owner.held] == [piece.records]

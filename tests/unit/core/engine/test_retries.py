"""How the engine moves a failed record on, and what waits for that."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.assignment import Assignment
from flux.core.engine.commands import Level
from flux.core.engine.common import Common
from flux.core.engine.forwarding import Forward
from flux.core.engine.forwards import Detail, Failure
from flux.core.engine.retries import Retries
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import Expired, Move, Pause, Reject, Retry, Skipped, Tombstone, Undecodable
from flux.core.errors import BrokerError, Fault
from flux.core.limits.call_limits import CallLimits
from flux.core.message import Message
from flux.core.ports import CommittedOffset, ProducerRecord
from flux.core.stage import Role
from unit.support.engine_support import (
    AWAY,
    DENIED,
    STAGES,
    T0,
    TOO_LARGE,
    Driver,
    assignment,
    offsets,
    policy,
    record,
)
from unit.support.order_support import Ordered


def headers(outgoing: ProducerRecord) -> dict[str, bytes | None]:
    return dict(outgoing.headers)


def failed_forward(driver: Driver, error: BaseException | None = None) -> Forward:
    """Record 0 fails with `error`; its forwarded copy."""
    driver.assign(0)
    driver.poll(0)
    run = driver.take()
    driver.fail(run, error)
    [forward] = driver.engine.writes(driver.now)
    return forward


def test_commit_stops_below_the_failed_record_until_its_forward_is_written() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1, 2)
    driver.work_all(1)
    position = driver.commit()[0]
    assert position.offset == 1
    driver.now += 1
    [forward] = driver.engine.writes(driver.now)
    assert driver.commit() == {}
    driver.engine.written(forward, driver.now)
    assert driver.commit() == {0: CommittedOffset(3)}


def test_what_is_done_above_a_failed_record_is_not_worked_again_by_the_next_owner() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1, 2)
    driver.work_all(0)
    position = driver.commit()[0]
    other = Driver()
    other.assign(position)
    other.poll(0, 1, 2)
    assert other.work_all() == [0]
    assert other.commit() == {0: CommittedOffset(3)}


def test_the_first_failure_goes_to_the_first_retry_stage_with_its_wait() -> None:
    driver = Driver()
    forward = failed_forward(driver)
    assert forward.forwarded_copy.target.topic == "t-g-try-1"
    written = headers(forward.forwarded_copy.producer_record(5_000_000, None))
    assert written["flux-due"] == b"5010000"
    assert written["flux-reason"] == b"error"
    driver.engine.written(forward, driver.now)
    assert driver.engine.stats.retried == 1


@pytest.mark.parametrize(
    ("stage", "error", "target", "reason"),
    [
        (0, Retry(after=77), "t-g-try-1", "error"),
        (0, Reject("no"), "t-g-dlq", "rejected"),
        (1, ValueError(), "t-g-try-2", "error"),
        (2, ValueError(), "t-g-dlq", "exhausted"),
        (2, Retry(after=5), "t-g-dlq", "exhausted"),
        (2, Reject("no"), "t-g-dlq", "rejected"),
    ],
)
def test_where_a_failure_goes_and_why(stage: int, error: Exception, target: str, reason: str) -> None:
    driver = Driver(stage)
    driver.now += 100
    forward = failed_forward(driver, error)
    assert forward.forwarded_copy.target.topic == target
    assert forward.forwarded_copy.reason == reason
    assert ("flux-due" in headers(forward.forwarded_copy.producer_record(0, None))) == (target != "t-g-dlq")


def test_a_wait_that_the_call_asked_for_is_clipped_and_named() -> None:
    driver = Driver()
    forward = failed_forward(driver, Retry(after=1e12))
    assert forward.forwarded_copy.wait == driver.policy.max_delay
    assert "clipped" in driver.log_events()


def test_a_failure_of_a_leftover_stage_goes_to_the_dead_letters() -> None:
    leftover = Driver().policy.stages.leftover(7)
    driver = Driver(leftover)
    driver.now += 100_000
    assert failed_forward(driver).forwarded_copy.target.role is Role.DEAD


def test_a_dead_letter_that_fails_once_more_stays_and_is_committed() -> None:
    driver = Driver(3)
    driver.now += 100
    driver.assign(0)
    driver.poll(0, 1)
    assert driver.work_all(0) == [0, 1]
    assert driver.write() == []
    assert driver.commit() == {0: CommittedOffset(2)}
    assert "stays a dead letter" in driver.log_events()


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(), KeyboardInterrupt(), GeneratorExit()])
def test_a_failure_of_the_process_moves_and_commits_nothing_of_its_record(error: BaseException) -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1, 2)
    run = driver.take()
    run.index = 1
    assert driver.fail(run, error) is Move.STOP
    driver.engine.aborted(run)
    assert driver.write() == []
    assert driver.commit() == {0: CommittedOffset(1)}
    assert driver.engine.calls == 0


def test_while_the_cluster_is_away_no_new_call_starts() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    driver.work_all(0)
    driver.write(AWAY)
    driver.poll(2)
    assert driver.nothing_to_take()
    assert driver.engine.ready(driver.now) == 0
    assert driver.write() == []
    driver.now += 1
    assert driver.write() == [0]
    assert driver.work_all() == [2]
    assert driver.commit() == {0: CommittedOffset(3)}


def test_a_refused_forward_keeps_its_record_and_its_key_and_the_rest_goes_on() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(driver.record(0, b"x"), driver.record(1, b"y"))
    driver.work_all(0)
    driver.write(DENIED)
    assert "grant WRITE" in driver.log_events()
    driver.poll(driver.record(2, b"x"), driver.record(3, b"y"), driver.record(4, None))
    assert driver.work_all() == [3, 4]
    assert driver.commit()[0].offset == 0
    for _ in range(12):
        driver.now += 60
        driver.write(DENIED)
    assert driver.nothing_to_take()
    driver.now += 60
    assert driver.write() == [0]
    assert driver.work_all() == [2]
    assert driver.commit() == {0: CommittedOffset(5)}
    assert driver.engine.idle


def test_nothing_goes_on_when_all_that_is_left_is_refused_or_waits_for_its_key() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(driver.record(0, b"x"), driver.record(1, b"x"), driver.record(2, b"y"))
    assert not driver.engine.rests(driver.now)
    driver.work_all(0)
    assert not driver.engine.rests(driver.now), "its copy is being written"
    driver.write(DENIED)
    driver.work_all()
    assert driver.engine.rests(driver.now)
    assert not driver.engine.empty
    assert [str(forward) for forward in driver.engine.refused] == [
        "t[0]@0 to t-g-try-1 (denied: grant WRITE on it, or take the record out of the way with flux skip)"
    ]
    driver.now += 1
    [again] = driver.engine.writes(driver.now)
    assert driver.engine.rests(driver.now), "it is tried again, and was refused before"
    driver.engine.unwritten(again, AWAY, driver.now)
    assert not driver.engine.rests(driver.now), "nobody knows: the cluster is away"


def test_records_of_a_refused_forwards_key_wait_although_their_run_has_begun() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(driver.record(0, b"x"), driver.record(1, b"y"), driver.record(2, b"x"), driver.record(3, b"y"))
    run = driver.take()
    driver.fail(run)
    run.index = 1
    driver.write(DENIED)
    assert driver.work(run) == [1]
    assert driver.work_all() == [3]
    driver.now += 1
    driver.write()
    assert driver.work_all() == [2]


def test_a_too_large_forward_loses_details_step_by_step_and_goes_alone() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1, 2)
    driver.work_all(0, 1, 2)
    forwards = driver.engine.writes(driver.now)
    for forward in forwards:
        driver.engine.unwritten(forward, TOO_LARGE, driver.now)
    big = forwards[0]
    for detail in (Detail.FULL, Detail.TYPE, Detail.NONE):
        assert driver.engine.writes(driver.now) == [big]
        assert big.forwarded_copy.detail is detail
        assert driver.engine.writes(driver.now) == []
        if detail is not Detail.NONE:
            driver.engine.unwritten(big, TOO_LARGE, driver.now)
        if detail is Detail.FULL:
            assert [driver.write(), driver.write()] == [[1], [2]]
    names = headers(big.forwarded_copy.producer_record(0, None))
    assert not [name for name in names if name.startswith("flux-error")]
    assert names["flux-origin-offset"] == b"0"
    driver.engine.written(big, driver.now)
    assert driver.commit() == {0: CommittedOffset(3)}


def test_what_a_call_produced_holds_its_record_and_not_its_key() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(driver.record(0, b"x"), driver.record(1, b"x"))
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index = 1
    assert driver.work(run) == [1]
    assert driver.commit()[0].offset == 0
    assert not driver.engine.quiet
    driver.engine.settled(entry, None, driver.now)
    assert driver.engine.quiet
    assert driver.commit() == {0: CommittedOffset(2)}


def test_a_product_that_is_not_delivered_makes_the_call_fail() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index = 1
    driver.engine.finished(run, driver.now)
    driver.engine.settled(entry, Failure(BrokerError("gone", Fault.OTHER)), driver.now)
    assert driver.commit() == {}
    assert driver.write() == [0]
    assert driver.commit() == {0: CommittedOffset(1)}


def test_a_settled_product_makes_room_for_what_was_put_aside() -> None:
    driver = Driver(max_metadata=16 + 2, concurrency=3)
    driver.assign(0)
    driver.poll(0, 1)
    first = driver.take()
    assert driver.look() == [first]
    entry = driver.engine.produced(first, 0, driver.message(first, 0))
    assert entry is not None
    first.index = 1
    driver.engine.finished(first, driver.now)
    assert driver.work_all() == [1]
    driver.poll(50)
    assert driver.nothing_to_take()
    driver.engine.settled(entry, None, driver.now)
    assert offsets(driver.take()) == [50]


def test_a_product_that_ends_with_a_failure_of_the_process_moves_nothing() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    driver.engine.settled(entry, Failure(MemoryError()), driver.now)
    assert driver.write() == []


# -- retries in place, and records that are open


def tried(driver: Driver, *records: int) -> None:
    """Records that failed once and wait for a retry in place."""
    driver.assign(0)
    driver.poll(*records)
    driver.work_all(*records)


def test_a_retry_in_place_is_called_again_after_its_wait_and_then_forwarded() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=5.0)
    tried(driver, 0)
    assert driver.nothing_to_take()
    driver.now += 5
    run = driver.take()
    assert driver.message(run, 0).attempt == 2
    assert driver.work(run, 0) == [0]
    assert driver.write() == [0]


@pytest.mark.parametrize("ordering", ["key", "none"])
def test_a_retry_in_place_holds_back_its_key_only_where_keys_have_an_order(ordering: str) -> None:
    driver = Driver(in_place_retries=1, in_place_wait=5.0, ordering=ordering)
    driver.assign(0)
    driver.poll(driver.record(0, b"x"), driver.record(1, b"x"), driver.record(2, b"y"))
    run = driver.take()
    assert driver.fail(run) is Move.AGAIN
    run.index = 1
    if ordering == "none":
        assert run.limit == 3
        return
    driver.engine.finished(run, driver.now)
    assert driver.work_all() == [2]


def test_a_stop_forwards_what_waits_for_a_retry_in_place_and_what_waits_for_a_caller() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=5.0)
    tried(driver, 0)
    driver.now += 3
    driver.poll(1)
    driver.work_all(1)
    driver.now += 2
    driver.engine._retries.readmit_due(driver.now)
    driver.engine.stop()
    assert sorted(driver.write()) == [0, 1]


def test_a_retry_in_place_that_is_called_when_the_stage_stops_ends_by_its_call() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=5.0)
    tried(driver, 0)
    driver.now += 5
    run = driver.take()
    driver.engine.stop()
    assert driver.write() == []
    driver.work(run)
    assert driver.commit() == {0: CommittedOffset(1)}


def test_a_process_that_fails_in_a_retry_in_place_moves_nothing() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=5.0)
    tried(driver, 0)
    driver.now += 5
    run = driver.take()
    assert driver.fail(run, MemoryError()) is Move.STOP
    driver.engine.aborted(run)
    driver.engine.stop()
    assert (driver.write(), driver.commit()) == ([], {})


def test_a_pause_ends_the_waits_in_place() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=60.0)
    tried(driver, 0)
    driver.engine.paused()
    assert driver.work(driver.take()) == [0]


def test_a_failure_is_reported_once_with_what_becomes_of_its_record() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    run.note(Failure(ValueError()), driver.message(run, 0))
    run.index = 2
    assert not driver.engine.has_news
    driver.engine.finished(run, driver.now)
    assert driver.engine._retries.news
    assert [(message.offset, move) for message, _, move in driver.engine.failures()] == [(0, Move.NEXT)]
    assert driver.engine.failures() == []


def test_what_ends_after_its_partition_was_lost_opens_nothing() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    driver.engine.lost([driver.p0])
    assert driver.engine.produced(run, 0, driver.message(run, 0)) is None
    run.index = 1
    assert driver.fail(run) is Move.NEXT
    assert (driver.write(), driver.engine.stats.failed) == ([], 1)


def test_a_product_that_finds_an_outage_has_its_record_called_again() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    for revoking in (False, True):
        run = driver.take()
        entry = driver.engine.produced(run, 0, driver.message(run, 0))
        assert entry is not None
        run.index = 1
        driver.engine.finished(run, driver.now)
        if revoking:
            driver.engine.revoking([driver.p0])
        assert driver.engine.settled(entry, Failure(Pause()), driver.now) is Move.PAUSE
    assert driver.nothing_to_take()


def test_an_acknowledgement_after_a_loss_counts_for_nothing() -> None:
    driver = Driver()
    forward = failed_forward(driver)
    driver.engine.lost([driver.p0])
    assert driver.engine.all_written([forward], driver.now) == []
    assert driver.engine.written(forward, driver.now) is False
    driver.engine.unwritten(forward, AWAY, driver.now)
    assert driver.log_events() == ""


def test_a_record_that_would_expire_while_it_waits_is_a_dead_letter() -> None:
    driver = Driver(give_up_after=5.0)
    forward = failed_forward(driver)
    assert (forward.forwarded_copy.target.role, forward.forwarded_copy.reason) == (Role.DEAD, "expired")


def test_copies_that_are_not_written_when_the_stage_leaves_are_named_a_few_of_many() -> None:
    driver = Driver()
    driver.engine.left_group()
    assert driver.log_events() == ""
    driver.assign(0)
    driver.poll(*range(7))
    driver.work_all(*range(7))
    driver.engine.left_group()
    line = driver.log_events()
    assert "t[0]@0 to t-g-try-1" in line
    assert " and 2 more: they are processed again" in line
    assert len(driver.engine.unforwarded) == 7


def test_a_revocation_waits_for_writes_and_products_alone() -> None:
    driver = Driver()
    forward = failed_forward(driver)
    assert driver.engine._retries.in_flight(forward.entry)
    driver.engine.unwritten(forward, DENIED, driver.now)
    assert not driver.engine._retries.in_flight(forward.entry)


def test_a_failure_is_open_until_its_copy_is_written() -> None:
    shared, cut = Common(policy(), STAGES[0], CallLimits()), list[Assignment]()
    retries = Retries(shared, cut.append, lambda entry: None)
    at = assignment()
    [piece] = at.deliver([record(0)])
    entry, run = piece.entry(at, 0, piece.message(0)), Run(1, T0)
    assert retries.fail(run, entry, Failure(ValueError()), T0) is Move.NEXT
    assert list(at.open) == [entry]
    [forward] = retries.forwards.take(T0)
    assert at.committable == CommittedOffset(0)
    assert retries.all_written([forward], T0) == [forward]
    assert at.committable == CommittedOffset(1)
    assert (cut, shared.stats.retried) == ([], 1)


def test_a_try_in_place_has_the_runs_of_its_partition_cut() -> None:
    shared, cut = Common(policy(in_place_retries=1), STAGES[0], CallLimits()), list[Assignment]()
    retries = Retries(shared, cut.append, lambda entry: None)
    at = assignment()
    [piece] = at.deliver([record(0)])
    entry = piece.entry(at, 0, piece.message(0))
    assert retries.fail(Run(1, T0), entry, Failure(ValueError()), T0) is Move.AGAIN
    assert cut == [at]
    assert retries.forwards.take(T0) == []
    retries.readmit_due(T0 + 60)
    assert shared.key_queues.take(1, T0 + 60) == [entry]


def test_a_record_that_waits_for_a_retry_in_place_and_was_lost_is_not_settled() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    driver.engine.lost([driver.p0])
    assert driver.engine.settled(entry, None, driver.now) is None
    assert driver.engine.stats.done == 0


# -- what is counted, reported and forwarded


def prepared(records: int = 1, **settings: Any) -> tuple[Common, Retries, Assignment, list[Entry], list[Assignment]]:
    """Retries of the main stage, entries of one partition, and the partitions whose runs were cut."""
    shared, cut = Common(policy(**settings), STAGES[0], CallLimits()), list[Assignment]()
    at = assignment()
    [piece] = at.deliver([record(offset, b"%d" % offset) for offset in range(records)])
    entries = [piece.entry(at, index, piece.message(index)) for index in range(records)]
    return shared, Retries(shared, cut.append, lambda entry: None), at, entries, cut


def test_copies_are_counted_by_where_they_went() -> None:
    shared, retries, _, entries, _ = prepared(8)
    for turn in (entries[:4], entries[4:]):
        for number, entry in enumerate(turn):
            retries.fail(Run(1, T0), entry, Failure(Reject() if number < 3 else ValueError()), T0)
        retries.all_written(retries.forwards.take(T0), T0)
    assert (shared.stats.failed, shared.stats.dead, shared.stats.retried, shared.commits.done) == (8, 6, 2, 8)


def test_what_was_produced_is_counted_when_it_is_acknowledged_or_fails() -> None:
    shared, retries, at, entries, _ = prepared(4)
    for number, entry in enumerate(entries):
        assert retries.produced(entry) is entry
        retries.settled(entry, Failure(ValueError()) if number % 2 else None, T0)
    assert (shared.stats.done, shared.stats.failed, shared.commits.done) == (2, 2, 2)
    assert list(at.open) == [entries[1], entries[3]]


def test_a_record_of_a_lost_partition_does_not_hide_those_after_it() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(driver.record(0), driver.record(0, partition=1))
    driver.work_all(0)
    forwards = driver.engine.writes(driver.now)
    assert len(forwards) == 2
    driver.engine.lost([forwards[0].entry.assignment.partition])
    assert driver.engine.all_written(forwards, driver.now) == [forwards[1]]


def test_a_refused_copy_has_the_runs_of_its_partition_cut() -> None:
    _, retries, at, [entry], cut = prepared()
    retries.fail(Run(1, T0), entry, Failure(ValueError()), T0)
    [forward] = retries.forwards.take(T0)
    retries.unwritten(forward, DENIED, T0)
    assert cut == [at]


def test_a_record_that_is_called_again_after_an_outage_has_the_value_that_it_came_with() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    entry.message.value = "decoded"
    run.index = 1
    driver.engine.finished(run, driver.now)
    driver.engine.settled(entry, Failure(Pause()), driver.now)
    assert entry.message.value == b"v"


def test_a_retry_in_place_whose_product_is_being_acknowledged_is_not_forwarded_by_a_stop() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=5.0)
    tried(driver, 0)
    driver.now += 5
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index = 1
    driver.engine.finished(run, driver.now)
    driver.engine.stop()
    assert driver.write() == []
    driver.engine.settled(entry, None, driver.now)
    assert driver.commit() == {0: CommittedOffset(1)}


def test_a_record_that_is_ready_for_its_retry_in_place_neither_waits_nor_is_open() -> None:
    _, retries, at, [entry], _ = prepared(in_place_retries=1)
    retries.fail(Run(1, T0), entry, Failure(ValueError()), T0)
    assert (entry.waits, list(at.open)) == (True, [entry])
    retries.readmit_due(T0 + 60)
    assert (entry.waits, list(at.open)) == (False, [])


def test_a_record_that_a_stop_forwards_does_not_wait_any_more() -> None:
    _, retries, at, [entry], _ = prepared(in_place_retries=1)
    retries.fail(Run(1, T0), entry, Failure(ValueError()), T0)
    retries.end_in_place(())
    assert (entry.waits, list(at.open)) == (False, [entry])


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("ends", ["revoking", "lost"])
def test_what_waits_for_a_retry_in_place_ends_with_its_own_partition_only(ready: bool, ends: str) -> None:
    driver = Driver(in_place_retries=1, in_place_wait=5.0)
    driver.assign(0, 0)
    driver.poll(driver.record(0), driver.record(0, partition=1))
    driver.work_all(0)
    driver.now += 5 if ready else 0
    driver.engine._retries.readmit_due(driver.now)
    getattr(driver.engine, ends)([driver.p1])
    assert driver.write() == ([0] if ends == "revoking" else [])
    driver.now += 5
    run = driver.take()
    assert [owner.partition for owner in run.assignments()] == [driver.p0]


def test_attempts_are_the_calls_that_were_made() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=5.0, ordering="none")
    tried(driver, 0)
    driver.now += 3
    driver.poll(1)
    driver.work_all(1)
    driver.now += 2
    driver.engine._retries.readmit_due(driver.now)
    driver.engine.stop()
    copies = {
        each.entry.offset: each.forwarded_copy.producer_record(0, None) for each in driver.engine.writes(driver.now)
    }
    assert [headers(copies[offset])["flux-attempts"] for offset in (0, 1)] == [b"1", b"1"]


def test_a_retry_in_place_keeps_when_its_record_failed_first() -> None:
    driver = Driver(in_place_retries=1, in_place_wait=5.0)
    tried(driver, 0)
    driver.now += 5
    driver.work_all(0)
    [forward] = driver.engine.writes(driver.now)
    sent = headers(forward.forwarded_copy.producer_record(0, None))
    assert (sent["flux-first-failed-at"], sent["flux-failed-at"]) == (b"%d" % (T0 * 1000), b"%d" % (T0 * 1000 + 5000))
    assert sent["flux-attempts"] == b"2"


def test_a_copy_names_the_error_as_far_as_the_task_allows() -> None:
    for setting, expected in (("full", (b"ValueError", b"bad", b"line 1")), ("type", (b"ValueError", None, None))):
        driver = Driver(error_headers=setting)
        driver.assign(0)
        driver.poll(0)
        driver.fail(driver.take(), ValueError("bad"), "line 1")
        [forward] = driver.engine.writes(driver.now)
        sent = headers(forward.forwarded_copy.producer_record(0, None))
        names = ("flux-error-type", "flux-error-message", "flux-error-trace")
        assert tuple(sent.get(name) for name in names) == expected


def test_a_record_that_is_skipped_was_not_called() -> None:
    forward = failed_forward(Driver(), Skipped("bad (skipped by ada)"))
    sent = headers(forward.forwarded_copy.producer_record(0, None))
    assert (sent["flux-attempts"], sent["flux-reason"]) == (b"0", b"skipped")
    assert forward.forwarded_copy.target.role is Role.DEAD


def test_a_record_that_expired_was_not_called_and_does_not_wait() -> None:
    driver = Driver()
    forward = failed_forward(driver, Expired())
    sent = headers(forward.forwarded_copy.producer_record(0, None))
    assert (sent["flux-attempts"], sent["flux-reason"], forward.forwarded_copy.wait) == (b"0", b"expired", 0)
    forward = failed_forward(Driver(give_up_after=5.0))
    sent = headers(forward.forwarded_copy.producer_record(0, None))
    assert (sent["flux-attempts"], sent["flux-reason"], forward.forwarded_copy.wait) == (b"1", b"expired", 0)


@pytest.mark.parametrize(("error", "why"), [(ValueError("bad"), "ValueError: bad"), (ValueError(), "ValueError")])
def test_a_dead_letter_that_fails_once_more_is_logged_and_stays(error: Exception, why: str) -> None:
    driver = Driver(3)
    driver.assign(0)
    driver.poll(0)
    driver.now += 60
    run = driver.take()
    driver.fail(run, error)
    [event] = driver.engine.log_events()
    assert event.level is Level.INFO
    assert f"failed once more ({why}) and stays a dead letter" in event.text
    assert isinstance(event.about, Message)
    assert driver.engine.writes(driver.now) == []


def test_all_copies_that_are_not_written_when_the_stage_leaves_are_an_error() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    driver.work_all(0, 1)
    driver.engine.left_group()
    [event] = driver.engine.log_events()
    assert event.level is Level.ERROR
    assert event.text == (
        "not committed, because their forwarded copies were not written: "
        "t[0]@0 to t-g-try-1, t[0]@1 to t-g-try-1: they are processed again"
    )


def test_waits_in_place_are_doubled() -> None:
    driver = Driver(in_place_retries=3, in_place_wait=1.0)
    tried(driver, 0)
    for wait in (1, 2, 4):
        driver.now += wait - 0.01
        assert driver.nothing_to_take()
        driver.now += 0.01
        assert driver.work_all(0) == [0]
    assert driver.write() == [0]


@pytest.mark.parametrize(("age", "move"), [(90, Move.AGAIN), (95, Move.NEXT)])
def test_a_record_that_would_expire_during_its_wait_is_not_retried_in_place(age: int, move: Move) -> None:
    driver = Driver(in_place_retries=1, in_place_wait=6.0, give_up_after=100.0)
    driver.assign(0)
    driver.poll(driver.record(0, timestamp=int(T0 - age) * 1000))
    assert driver.fail(driver.take()) is move


def test_calls_that_were_not_made_are_counted_in_their_run() -> None:
    _, retries, _, entries, _ = prepared(5)
    run = Run(5, T0)
    errors = (Expired(), ValueError(), Undecodable(), Tombstone(), Skipped())
    for entry, error, refused in zip(entries, errors, (1, 1, 2, 3, 4), strict=True):
        retries.fail(run, entry, Failure(error), T0)
        assert run.refused == refused


def test_copies_of_other_partitions_are_written_after_a_loss() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(driver.record(0), driver.record(0, partition=1))
    driver.work_all(0)
    driver.engine.lost([driver.p1])
    [forward] = driver.engine.writes(driver.now)
    assert forward.entry.assignment.partition == driver.p0


def test_many_records_are_settled_at_once_and_those_of_a_lost_partition_are_not() -> None:
    driver = Driver()
    driver.assign(0, 0)
    driver.poll(driver.record(0), driver.record(1), driver.record(0, partition=1))
    entries = []
    while (run := driver.engine.take(True, driver.now)) is not None:
        while run.index < run.limit:
            entries.append(driver.engine.produced(run, run.index, driver.message(run, run.index)))
            run.index += 1
        driver.engine.finished(run, driver.now)
    driver.engine.lost([driver.p1])

    driver.engine._retries.all_settled(entry for entry in entries if entry is not None)

    assert driver.engine.stats.done == 2
    assert driver.engine.committable_offsets() == {driver.p0: 2}


def test_with_an_order_many_entries_that_are_settled_free_their_keys() -> None:
    driver = Ordered()
    driver.assign(0)
    driver.poll(driver.record(0), driver.record(1))
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    driver.engine._retries.all_settled([entry])
    assert driver.work_all() == [1]


def test_with_an_order_a_failed_record_is_done_when_its_entry_and_its_copy_are_written() -> None:
    driver = Ordered()
    driver.assign(0)
    driver.poll(driver.record(0), driver.record(1, None))
    driver.work_all(0, 1)
    assert driver.settle() == ["t-g-keys", "t-g-try-1", "t-g-try-1"]
    assert driver.engine.stats.retried == 2
    assert driver.commit()[0].offset == 2


def test_with_an_order_a_key_waits_for_what_a_call_produced() -> None:
    driver = Ordered()
    driver.assign(0)
    driver.poll(driver.record(0), driver.record(1))
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    driver.engine.settled(entry, None, driver.now)
    assert driver.work_all() == [1]


def test_with_an_order_a_lost_partitions_moves_are_forgotten() -> None:
    driver = Ordered()
    driver.assign(0)
    driver.poll(driver.record(0))
    driver.work_all(0)
    driver.engine.lost([driver.p0])
    assert driver.settle() == []

"""What becomes of a forwarded copy: written in order, alone when too large, tried again, kept, forgotten."""

from __future__ import annotations

import pytest

from flux.core.engine.assignment import Assignment, Event
from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.forwarding import (
    MOST_OPEN,
    MOST_OPEN_BYTES,
    Forward,
    Forwards,
    ForwardState,
    not_written,
    remedy,
    remedy_or_skip,
)
from flux.core.engine.forwards import Detail, ForwardedCopy
from flux.core.errors import BrokerError, Fault
from unit.support.engine_support import AWAY, DENIED, STAGES, T0, T0_MS, TOO_LARGE, assignment, entry


def make(offset: int, owner: Assignment, size: int = 10) -> Forward:
    one = entry(owner, offset)
    forwarded_copy = ForwardedCopy(one.message, STAGES[1], "error", 10, "g", T0_MS, "E", "text", "trace")
    return Forward(one, forwarded_copy, size)


def added(forwards: Forwards, *offsets: int) -> list[Forward]:
    owner = assignment()
    made = [make(offset, owner) for offset in offsets]
    for forward in made:
        forwards.add(forward)
    return made


def test_forwards_are_written_in_the_order_of_their_failures() -> None:
    forwards = Forwards()
    made = added(forwards, 3, 1, 2)
    assert forwards.queued
    assert forwards.take(T0) == made
    assert not forwards.queued
    assert forwards.take(T0) == []


def test_an_acknowledged_forward_is_gone() -> None:
    forwards = Forwards()
    [forward] = added(forwards, 0)
    forwards.take(T0)
    assert forwards.moving(forward.entry)
    assert forwards.has(forward.entry)
    forwards.written(forward)
    assert not forwards.moving(forward.entry)
    assert not forwards.has(forward.entry)
    assert len(forwards) == 0


def test_while_the_cluster_is_away_the_stage_stands_still_and_the_forward_is_tried_again() -> None:
    forwards = Forwards()
    [forward] = added(forwards, 0)
    for wait in (1, 2, 4, 8, 16, 30, 30):
        assert forwards.take(T0) == [forward]
        assert forwards.unwritten(forward, AWAY, T0) is not None
        assert forward.state is ForwardState.WAITING
        assert forwards.blocked
        assert forwards.any_moving
        assert forwards.deadline == T0 + wait
        assert forwards.take(T0 + wait - 0.1) == []
        forward.at = T0  # as if that time had passed
    assert forwards.take(T0) == [forward]
    assert forwards.blocked
    forwards.written(forward)
    assert not forwards.blocked
    assert forwards.deadline is None


@pytest.mark.parametrize("error", [DENIED, TOO_LARGE])
def test_a_cluster_that_answers_is_not_away_whatever_it_says(error: BrokerError) -> None:
    forwards = Forwards()
    [forward] = added(forwards, 0)
    for answer in (AWAY, error):
        forwards.take(T0)
        forwards.unwritten(forward, answer, T0 - 10)
    assert not forwards.blocked


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.DENIED])
def test_an_outage_of_days_is_no_overflow(fault: Fault) -> None:
    forwards = Forwards()
    [forward] = added(forwards, 0)
    now = T0
    for _ in range(3_000):
        now += 61
        assert forwards.take(now) == [forward]
        forwards.unwritten(forward, BrokerError("still not", fault), now)
        assert forwards.take(now) == []
    assert forwards.deadline == now + (30 if fault is Fault.UNAVAILABLE else 60)
    assert forwards.refused == ([] if fault is Fault.UNAVAILABLE else [forward])


def test_after_an_outage_forwards_are_written_in_their_first_order() -> None:
    forwards = Forwards()
    made = added(forwards, *range(50))
    for forward in forwards.take(T0):
        forwards.unwritten(forward, AWAY, T0)
    assert forwards.take(T0 + 1) == made


def test_a_clock_set_back_does_not_hold_a_forward_for_longer_than_its_wait() -> None:
    forwards = Forwards()
    made = added(forwards, 0)
    forwards.take(T0)
    forwards.unwritten(made[0], AWAY, T0)
    assert forwards.take(T0 - 3600) == made


def test_a_refused_forward_is_kept_and_the_others_go_on() -> None:
    forwards = Forwards()
    [forward] = added(forwards, 0)
    forwards.take(T0)
    log_event = forwards.unwritten(forward, DENIED, T0)
    assert log_event is not None
    assert "grant WRITE" in log_event.text
    assert forward.state is ForwardState.KEPT
    assert not forwards.blocked
    assert not forwards.any_moving
    assert forwards.has(forward.entry)
    assert forwards.take(T0 + 0.9) == []
    assert forwards.take(T0 + 1) == [forward]


def test_refusals_for_one_reason_are_lines_of_one_kind() -> None:
    forwards = Forwards()
    made = added(forwards, *range(30))
    forwards.take(T0)
    log_events = [
        forwards.unwritten(forward, error, T0)
        for forward, error in zip(made, [DENIED, TOO_LARGE, DENIED], strict=False)
    ]
    assert len({log_event.kind for log_event in log_events if log_event}) == 1, (
        "one that is too large is tried alone first"
    )
    assert all(log_event.kind is not None for log_event in log_events if log_event)


def test_a_forward_that_is_too_large_is_written_alone_then_with_fewer_details_then_kept() -> None:
    forwards = Forwards()
    [forward] = added(forwards, 0)
    tried = []
    while forward.state is not ForwardState.KEPT:
        assert forwards.take(T0) == [forward]
        tried.append((forward.alone, forward.forwarded_copy.detail))
        log_event = forwards.unwritten(forward, TOO_LARGE, T0)
    assert log_event is not None
    assert "raise max.message.bytes of t-g-try-1, or" in log_event.text
    assert str(forward).startswith("t[0]@0 to t-g-try-1 (too large: raise max.message.bytes of t-g-try-1, or")
    assert tried == [(False, Detail.FULL), (True, Detail.FULL), (True, Detail.TYPE), (True, Detail.NONE)]


def test_one_that_shared_a_batch_with_a_too_large_one_keeps_its_details() -> None:
    forwards = Forwards()
    big, small = added(forwards, 0, 1)
    forwards.take(T0)
    forwards.unwritten(big, TOO_LARGE, T0)
    forwards.unwritten(small, TOO_LARGE, T0)
    assert forwards.take(T0) == [big]
    assert forwards.take(T0) == []
    forwards.unwritten(big, TOO_LARGE, T0)
    assert forwards.take(T0) == [small]
    forwards.written(small)
    assert small.forwarded_copy.detail is Detail.FULL


def test_nothing_is_written_beside_a_forward_that_is_written_alone() -> None:
    forwards = Forwards()
    [big] = added(forwards, 0)
    forwards.take(T0)
    forwards.unwritten(big, TOO_LARGE, T0)
    assert forwards.take(T0) == [big]
    [other] = added(forwards, 1)
    assert not forwards.queued
    assert forwards.take(T0) == []
    forwards.unwritten(big, TOO_LARGE, T0)
    assert forwards.take(T0) == [big]
    assert forwards.take(T0) == []
    forwards.written(big)
    assert forwards.queued
    assert forwards.take(T0) == [other]


def test_a_forward_to_be_written_alone_waits_for_those_on_their_way() -> None:
    forwards = Forwards()
    first, second = added(forwards, 0, 1)
    forwards.take(T0)
    forwards.unwritten(first, TOO_LARGE, T0)
    assert not forwards.queued
    assert forwards.take(T0) == []
    assert forwards.moving(first.entry)
    forwards.written(second)
    assert forwards.take(T0) == [first]


def test_a_forgotten_forward_that_was_written_alone_holds_nobody() -> None:
    forwards = Forwards()
    [big] = added(forwards, 0)
    forwards.take(T0)
    forwards.unwritten(big, TOO_LARGE, T0)
    assert forwards.take(T0) == [big]
    [other] = added(forwards, 1)
    forwards.forget(big.entry.assignment)
    forwards.unwritten(big, TOO_LARGE, T0)
    assert forwards.take(T0) == [other]


def test_what_is_forgotten_is_neither_written_nor_counted() -> None:
    forwards = Forwards()
    owner = assignment()
    waiting, queued, kept, writing = made = [make(offset, owner) for offset in range(4)]
    for forward, error in ((waiting, AWAY), (kept, DENIED)):
        forwards.add(forward)
        forwards.take(T0)
        forwards.unwritten(forward, error, T0)
    forwards.add(writing)
    forwards.take(T0)
    forwards.add(queued)
    [other] = added(forwards, 9)
    forwards.forget(owner)
    assert not any(forwards.has(forward.entry) for forward in made)
    assert not forwards.blocked
    assert forwards.take(T0 + 100) == [other]
    assert forwards.unwritten(writing, AWAY, T0) is None
    assert not forwards.blocked
    assert len(forwards) == 1


def test_too_many_or_too_large_open_forwards_stop_new_calls() -> None:
    forwards = Forwards()
    made = added(forwards, *range(MOST_OPEN))
    assert forwards.blocked
    forwards.take(T0)
    forwards.written(made[0])
    assert not forwards.blocked
    forwards.add(make(MOST_OPEN + 1, assignment(), size=MOST_OPEN_BYTES))
    assert forwards.blocked


def test_a_forward_is_shown_with_its_record_its_target_and_why_that_refuses_it() -> None:
    forwards = Forwards()
    [forward] = added(forwards, 7)
    assert str(forward) == "t[0]@7 to t-g-try-1"
    assert forwards.take(T0) == [forward]
    assert forwards.writing == 1
    forwards.unwritten(forward, DENIED, T0)
    assert str(forward).startswith("t[0]@7 to t-g-try-1 (denied: grant WRITE on it, or take the record out")
    assert forwards.refused == [forward]
    assert (forwards.of(forward.entry), forwards.has(forward.entry)) == (forward, True)


def test_a_forward_of_a_partition_that_is_gone_must_not_be_written() -> None:
    owner = assignment()
    forward = make(0, owner)
    assert not forward.gone
    owner.to(Event.LOST)
    assert forward.gone


def test_a_forward_that_its_topic_refuses_does_not_move() -> None:
    forwards = Forwards()
    first, second = added(forwards, 0, 1)
    assert not forwards.moving(entry(assignment(), 0))
    assert forwards.moving(first.entry)
    forwards.take(T0)
    forwards.unwritten(first, DENIED, T0)
    assert (forwards.moving(first.entry), forwards.moving_all(), forwards.any_moving) == (False, [second], True)
    forwards.unwritten(second, AWAY, T0)
    assert (forwards.moving(second.entry), forwards.moving_all()) == (False, [second])


def test_an_acknowledgement_of_a_forgotten_forward_counts_for_nothing() -> None:
    forwards = Forwards()
    owner = assignment()
    forward = make(0, owner)
    forwards.add(forward)
    forwards.take(T0)
    forwards.forget(owner)
    forwards.written(forward)
    assert (len(forwards), forwards.writing) == (0, 0)


def test_open_forwards_of_too_many_bytes_stop_new_calls_until_they_are_acknowledged_or_forgotten() -> None:
    forwards, owner = Forwards(), assignment()
    big, small, other = make(0, owner, MOST_OPEN_BYTES - 1), make(1, owner, 1), make(2, owner, 1)
    blocked = []
    for forward in (big, small):
        forwards.add(forward)
        blocked.append(forwards.blocked)
    forwards.take(T0)
    forwards.written(small)
    blocked.append(forwards.blocked)
    forwards.add(other)
    blocked.append(forwards.blocked)
    forwards.forget(owner)
    blocked.append(forwards.blocked)
    forwards.add(make(3, assignment(), MOST_OPEN_BYTES - 1))
    blocked.append(forwards.blocked)
    assert blocked == [False, True, False, True, False, False]


def test_a_failed_write_is_logged_with_its_record_its_topic_and_what_helps() -> None:
    forwards = Forwards()
    first, second = added(forwards, 0, 1)
    forwards.take(T0)
    assert forwards.unwritten(first, AWAY, T0) == LogEvent(
        Level.WARNING,
        "t-g-try-1 cannot be written (not now): 2 record(s) from t[0]@0 on wait for it; the stage pauses and retries",
        first.forwarded_copy.message,
        ("t-g-try-1", Fault.UNAVAILABLE),
    )
    assert forwards.unwritten(second, DENIED, T0) == LogEvent(
        Level.ERROR,
        "t-g-try-1 refuses t[0]@1 (not allowed): the record is kept and retried, its key waits; grant WRITE on it, or"
        " take the record out of the way with flux skip",
        second.forwarded_copy.message,
        ("t-g-try-1", Fault.DENIED),
    )


def test_what_helps_against_a_refusal_is_named() -> None:
    assert [remedy(fault, "t") for fault in (Fault.TOO_LARGE, Fault.UNKNOWN_TOPIC, Fault.DENIED, Fault.OTHER)] == [
        "raise max.message.bytes of t",
        "create it: flux topics TASK --create",
        "grant WRITE on it",
        "see the broker's log",
    ]
    skip = "or take the record out of the way with flux skip"
    assert remedy_or_skip(Fault.TOO_LARGE, "t") == f"raise max.message.bytes of t, {skip}"


def test_a_forward_that_is_written_alone_is_retried_alone() -> None:
    forwards = Forwards()
    [big] = added(forwards, 0)
    for error in (TOO_LARGE, AWAY):
        forwards.take(T0)
        forwards.unwritten(big, error, T0)
    [waiting, other] = added(forwards, 1, 2)
    assert forwards.take(T0) == [waiting, other]
    assert forwards.take(T0 + 1) == []
    assert forwards.moving(big.entry)
    for forward in (waiting, other):
        forwards.written(forward)
    added(forwards, 3)
    assert forwards.take(T0 + 1) == [big]


def test_of_those_that_are_to_be_written_alone_only_the_forgotten_are_not() -> None:
    forwards, gone, stays = Forwards(), assignment(), assignment()
    made = [make(0, gone), make(1, stays)]
    for forward in made:
        forwards.add(forward)
    forwards.take(T0)
    for forward in made:
        forwards.unwritten(forward, TOO_LARGE, T0)
    forwards.forget(gone)
    assert forwards.take(T0) == made[1:]


def test_forwards_that_were_put_back_are_taken_first_and_in_order() -> None:
    forwards = Forwards()
    added(forwards, 0, 1)
    taken = forwards.take(T0)
    later = added(forwards, 2)

    forwards.put_back(taken)

    assert forwards.writing == 0
    assert forwards.take(T0) == [*taken, *later]


def test_one_that_is_written_alone_is_put_back_alone() -> None:
    forwards = Forwards()
    (large,) = added(forwards, 0)
    forwards.take(T0)
    forwards.unwritten(large, TOO_LARGE, T0)
    added(forwards, 1)
    assert forwards.take(T0) == [large]

    forwards.put_back([large])

    assert forwards.take(T0) == [large]


def test_what_was_forgotten_meanwhile_is_not_put_back() -> None:
    forwards = Forwards()
    (forward,) = added(forwards, 0)
    forwards.take(T0)
    forwards.forget(forward.entry.assignment)

    forwards.put_back([forward])

    assert forwards.take(T0) == []
    assert forwards.writing == 0


def test_half_of_the_bounds_is_pressing() -> None:
    forwards = Forwards(4)
    added(forwards, 0)
    assert not forwards.pressing
    added(forwards, 1)
    assert forwards.pressing
    assert not forwards.blocked

    large = Forwards(4)
    large.add(make(0, assignment(), MOST_OPEN_BYTES // 2))
    assert large.pressing


def test_a_refused_forward_is_to_be_retried_when_its_time_has_come() -> None:
    forwards = Forwards()
    (forward,) = added(forwards, 0)
    forwards.take(T0)
    assert not forwards.retries(T0)

    forwards.unwritten(forward, DENIED, T0)

    assert not forwards.retries(T0)
    assert forwards.retries(forward.at)


def test_what_a_stage_leaves_unwritten_is_named_as_far_as_it_is_few() -> None:
    forwards = added(Forwards(), *range(7))
    assert not_written(forwards[:1]).text.endswith("were not written: t[0]@0 to t-g-try-1: they are processed again")
    assert "t[0]@4 to t-g-try-1 and 2 more: they are processed again" in not_written(forwards).text

"""What becomes of a hop: written in order, alone when too large, tried again, kept, forgotten."""

from __future__ import annotations

import pytest
from engine_support import AWAY, DENIED, STAGES, T0, T0_MS, TOO_LARGE, assignment, entry

from flux.core.engine.assignment import Assignment
from flux.core.engine.forwarding import MOST_OPEN, MOST_OPEN_BYTES, Hop, Hops, State
from flux.core.engine.forwards import Detail, Transfer
from flux.core.errors import BrokerError, Fault


def make(offset: int, owner: Assignment, size: int = 10) -> Hop:
    one = entry(owner, offset)
    transfer = Transfer(one.message, STAGES[1], "error", 10, "g", T0_MS, "E", "text", "trace")
    return Hop(one, transfer, size)


def added(hops: Hops, *offsets: int) -> list[Hop]:
    owner = assignment()
    made = [make(offset, owner) for offset in offsets]
    for hop in made:
        hops.add(hop)
    return made


def test_hops_are_written_in_the_order_of_their_failures() -> None:
    hops = Hops()
    made = added(hops, 3, 1, 2)
    assert hops.queued
    assert hops.take(T0) == made
    assert not hops.queued
    assert hops.take(T0) == []


def test_an_acknowledged_hop_is_gone() -> None:
    hops = Hops()
    [hop] = added(hops, 0)
    hops.take(T0)
    assert hops.moving(hop.entry)
    assert hops.has(hop.entry)
    hops.written(hop)
    assert not hops.moving(hop.entry)
    assert not hops.has(hop.entry)
    assert len(hops) == 0


def test_while_the_cluster_is_away_the_stage_stands_still_and_the_hop_is_tried_again() -> None:
    hops = Hops()
    [hop] = added(hops, 0)
    for wait in (1, 2, 4, 8, 16, 30, 30):
        assert hops.take(T0) == [hop]
        assert hops.unwritten(hop, AWAY, T0) is not None
        assert hop.state is State.WAITING
        assert hops.blocked
        assert hops.any_moving
        assert hops.deadline == T0 + wait
        assert hops.take(T0 + wait - 0.1) == []
        hop.at = T0  # as if that time had passed
    assert hops.take(T0) == [hop]
    assert hops.blocked
    hops.written(hop)
    assert not hops.blocked
    assert hops.deadline is None


@pytest.mark.parametrize("error", [DENIED, TOO_LARGE])
def test_a_cluster_that_answers_is_not_away_whatever_it_says(error: BrokerError) -> None:
    hops = Hops()
    [hop] = added(hops, 0)
    for answer in (AWAY, error):
        hops.take(T0)
        hops.unwritten(hop, answer, T0 - 10)
    assert not hops.blocked


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.DENIED])
def test_an_outage_of_days_is_no_overflow(fault: Fault) -> None:
    hops = Hops()
    [hop] = added(hops, 0)
    now = T0
    for _ in range(3_000):
        now += 61
        assert hops.take(now) == [hop]
        hops.unwritten(hop, BrokerError("still not", fault), now)
    assert hops.deadline is not None
    assert now < hops.deadline <= now + 60


def test_after_an_outage_hops_are_written_in_their_first_order() -> None:
    hops = Hops()
    made = added(hops, *range(50))
    for hop in hops.take(T0):
        hops.unwritten(hop, AWAY, T0)
    assert hops.take(T0 + 1) == made


def test_a_clock_set_back_does_not_hold_a_hop_for_longer_than_its_wait() -> None:
    hops = Hops()
    made = added(hops, 0)
    hops.take(T0)
    hops.unwritten(made[0], AWAY, T0)
    assert hops.take(T0 - 3600) == made


def test_a_refused_hop_is_kept_and_the_others_go_on() -> None:
    hops = Hops()
    [hop] = added(hops, 0)
    hops.take(T0)
    notice = hops.unwritten(hop, DENIED, T0)
    assert notice is not None
    assert "grant WRITE" in notice.text
    assert hop.state is State.KEPT
    assert not hops.blocked
    assert not hops.any_moving
    assert hops.has(hop.entry)
    assert hops.take(T0 + 0.9) == []
    assert hops.take(T0 + 1) == [hop]


def test_refusals_for_one_reason_are_lines_of_one_kind() -> None:
    hops = Hops()
    made = added(hops, *range(30))
    hops.take(T0)
    notices = [hops.unwritten(hop, error, T0) for hop, error in zip(made, [DENIED, TOO_LARGE, DENIED], strict=False)]
    assert len({notice.kind for notice in notices if notice}) == 1, "one that is too large is tried alone first"
    assert all(notice.kind is not None for notice in notices if notice)


def test_a_hop_that_is_too_large_is_written_alone_then_with_fewer_details_then_kept() -> None:
    hops = Hops()
    [hop] = added(hops, 0)
    tried = []
    while hop.state is not State.KEPT:
        assert hops.take(T0) == [hop]
        tried.append((hop.alone, hop.transfer.detail))
        hops.unwritten(hop, TOO_LARGE, T0)
    assert tried == [(False, Detail.FULL), (True, Detail.FULL), (True, Detail.TYPE), (True, Detail.NONE)]


def test_one_that_shared_a_batch_with_a_too_large_one_keeps_its_details() -> None:
    hops = Hops()
    big, small = added(hops, 0, 1)
    hops.take(T0)
    hops.unwritten(big, TOO_LARGE, T0)
    hops.unwritten(small, TOO_LARGE, T0)
    assert hops.take(T0) == [big]
    assert hops.take(T0) == []
    hops.unwritten(big, TOO_LARGE, T0)
    assert hops.take(T0) == [small]
    hops.written(small)
    assert small.transfer.detail is Detail.FULL


def test_nothing_is_written_beside_a_hop_that_is_written_alone() -> None:
    hops = Hops()
    [big] = added(hops, 0)
    hops.take(T0)
    hops.unwritten(big, TOO_LARGE, T0)
    assert hops.take(T0) == [big]
    [other] = added(hops, 1)
    assert not hops.queued
    assert hops.take(T0) == []
    hops.unwritten(big, TOO_LARGE, T0)
    assert hops.take(T0) == [big]
    assert hops.take(T0) == []
    hops.written(big)
    assert hops.queued
    assert hops.take(T0) == [other]


def test_a_hop_to_be_written_alone_waits_for_those_on_their_way() -> None:
    hops = Hops()
    first, second = added(hops, 0, 1)
    hops.take(T0)
    hops.unwritten(first, TOO_LARGE, T0)
    assert not hops.queued
    assert hops.take(T0) == []
    hops.written(second)
    assert hops.take(T0) == [first]


def test_a_forgotten_hop_that_was_written_alone_holds_nobody() -> None:
    hops = Hops()
    [big] = added(hops, 0)
    hops.take(T0)
    hops.unwritten(big, TOO_LARGE, T0)
    assert hops.take(T0) == [big]
    [other] = added(hops, 1)
    hops.forget(big.entry.assignment)
    hops.unwritten(big, TOO_LARGE, T0)
    assert hops.take(T0) == [other]


def test_what_is_forgotten_is_neither_written_nor_counted() -> None:
    hops = Hops()
    owner = assignment()
    waiting, queued, kept, writing = made = [make(offset, owner) for offset in range(4)]
    for hop, error in ((waiting, AWAY), (kept, DENIED)):
        hops.add(hop)
        hops.take(T0)
        hops.unwritten(hop, error, T0)
    hops.add(writing)
    hops.take(T0)
    hops.add(queued)
    [other] = added(hops, 9)
    hops.forget(owner)
    assert not any(hops.has(hop.entry) for hop in made)
    assert not hops.blocked
    assert hops.take(T0 + 100) == [other]
    assert hops.unwritten(writing, AWAY, T0) is None
    assert not hops.blocked
    assert len(hops) == 1


def test_too_many_or_too_large_open_hops_stop_new_calls() -> None:
    hops = Hops()
    made = added(hops, *range(MOST_OPEN))
    assert hops.blocked
    hops.take(T0)
    hops.written(made[0])
    assert not hops.blocked
    hops.add(make(MOST_OPEN + 1, assignment(), size=MOST_OPEN_BYTES))
    assert hops.blocked

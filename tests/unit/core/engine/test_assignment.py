"""What of a batch is to be worked, and a partition's life."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.engine.assignment import TRANSITIONS, Assignment, Event, Phase
from flux.core.engine.crashes import SETTLED, Crashes, Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.engine.slice_runs import SliceRun
from flux.core.engine.slices import Slice
from flux.core.ports import BEGINNING, CommittedOffset
from unit.support.engine_support import P0, FakeRecord, record


def batch(*offsets: int) -> list[FakeRecord]:
    return [record(offset) for offset in offsets]


def pieces(owner: Assignment, *offsets: int) -> list[tuple[list[int], int]]:
    return [([one.offset() for one in piece.records], piece.end) for piece in owner.deliver(batch(*offsets))]


def owned(start: int = 0, done: list[tuple[int, int]] | None = None) -> Assignment:
    return Assignment(P0, start, done or [], CommittedOffset(start), 0, 4095)


def test_a_batch_is_one_slice() -> None:
    assert pieces(owned(), 0, 1, 2) == [([0, 1, 2], 3)]


def test_a_record_that_is_here_already_is_not_worked_again() -> None:
    owner = owned()
    assert pieces(owner, 0, 1, 2) == [([0, 1, 2], 3)]
    assert pieces(owner, 1, 2, 3) == [([3], 4)]
    assert pieces(owner, 0, 1) == []


def test_what_another_owner_has_done_is_left_out() -> None:
    owner = owned(5, [(7, 9), (10, 11)])
    assert pieces(owner, 5, 6, 7, 8, 9, 10, 11) == [([5, 6], 7), ([9], 10), ([11], 12)]
    assert pieces(owner, 10, 11) == []


def test_without_a_position_the_first_record_says_where_the_partition_begins() -> None:
    owner = Assignment(P0, BEGINNING, [], None, 0, 4095)
    assert owner.committable is None
    assert pieces(owner, 40, 41) == [([40, 41], 42)]
    assert owner.committable == CommittedOffset(40)


def test_a_gap_before_and_between_batches_is_done() -> None:
    owner = owned(3)
    pieces(owner, 5)
    assert owner.committable == CommittedOffset(5)
    pieces(owner, 9)
    assert owner.offset_tracker is not None
    owner.offset_tracker.done(5, 6)
    assert owner.committable == CommittedOffset(9)


@pytest.mark.parametrize("offsets", [(5, 9, 10), (5, 9)])
def test_a_gap_behind_a_record_that_another_owner_has_done_holds_no_position(offsets: tuple[int, ...]) -> None:
    owner = owned(3, [(5, 6), (10, 11)])
    pieces(owner, 3, *offsets)
    assert owner.offset_tracker is not None
    owner.offset_tracker.done(3, 5)
    assert owner.committable is not None
    assert owner.committable.offset == 9


@given(
    gaps=st.lists(st.integers(1, 4), min_size=1, max_size=30),
    done=st.sets(st.integers(0, 29)),
    cuts=st.lists(st.integers(1, 5), min_size=30, max_size=30),
)
def test_when_all_that_is_handed_out_is_done_the_position_is_at_the_end(
    gaps: list[int], done: set[int], cuts: list[int]
) -> None:
    log = [sum(gaps[: number + 1]) for number in range(len(gaps))]
    owner = owned(0, sorted((log[n], log[n] + 1) for n in done if n < len(log)))
    worked = []
    rest = list(log)
    for cut in cuts:
        if not rest:
            break
        here, rest = rest[:cut], rest[cut:]
        for piece in list(owner.deliver(batch(*here))):
            worked += [one.offset() for one in piece.records]
            for index, one in enumerate(piece.records):
                assert owner.offset_tracker is not None
                end = piece.records[index + 1].offset() if index + 1 < len(piece.records) else piece.end
                owner.offset_tracker.done(one.offset(), end)
    assert worked == [offset for number, offset in enumerate(log) if number not in done]
    assert owner.committable == CommittedOffset(log[-1] + 1)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", list(Event))
def test_a_partition_that_is_gone_never_comes_back(phase: Phase, event: Event) -> None:
    owner = owned()
    owner.phase = phase
    if (phase, event) not in TRANSITIONS:
        with pytest.raises(KeyError):
            owner.to(event)
        return
    owner.to(event)
    assert phase is not Phase.GONE
    assert owner.phase is (Phase.DRAINING if event is Event.REVOKING else Phase.GONE)


def test_what_was_read_moves_the_committable_offset_of_a_partition_without_records() -> None:
    owner = Assignment(P0, BEGINNING, [], None, 0, 4095)
    assert owner.read_to(7)
    assert owner.committable == CommittedOffset(7)
    assert not owner.read_to(7)
    assert owner.read_to(9)
    pieces(owner, 9, 10)
    assert not owner.read_to(20)


def test_what_is_given_back_is_in_order_again() -> None:
    owner = owned()
    first, second, third = (Slice(batch(offset), offset + 1) for offset in (0, 1, 2))
    owner.backlog.extend([first, third])
    owner.backlogged = 2
    owner.give_back(second)
    assert list(owner.backlog) == [first, second, third]
    assert owner.backlogged == 3


def test_its_repr_names_partition_and_phase() -> None:
    assert repr(owned()) == "<Assignment t[0] working>"


def test_a_new_assignment_holds_nothing_in_memory() -> None:
    owner = Assignment(P0, 5, [], CommittedOffset(5), 7, 4095)
    assert (owner.start, owner.committed, owner.jitter) == (5, CommittedOffset(5), 7)
    assert not any((owner.backlog, owner.running, owner.open, owner.queued, owner.paused))
    counts = owner.backlogged, owner.in_key_queues, owner.in_flight, owner.waiting, owner.waiting_bytes
    assert counts == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("begun", ["committed", "delivered", "read"])
def test_the_metadata_is_limited_wherever_the_partition_begins(begun: str) -> None:
    owner = Assignment(P0, 0 if begun == "committed" else BEGINNING, [], None, 0, max_metadata=16)
    if begun == "delivered":
        pieces(owner, 0)
    elif begun == "read":
        owner.read_to(0)
    assert owner.offset_tracker is not None
    assert not owner.offset_tracker.admits(1000, 0)


def test_the_offset_after_more_records_have_ended_in_any_order() -> None:
    owner = owned(5)
    list(owner.deliver(batch(5, 6, 7, 8)))

    assert owner.committable_after([(6, 7), (5, 6)]).offset == 7
    assert owner.committable == CommittedOffset(5)


def test_a_mark_is_noted_when_the_last_commit_has_it() -> None:
    owner = Assignment(P0, 5, [], None, 0, 4095, Crashes(3))
    assert not owner.is_noted
    owner.committed = CommittedOffset(5)
    assert owner.is_noted  # none
    owner.crashes.begins(0, 1.0)
    assert not owner.is_noted
    committable = owner.committable
    assert committable is not None
    assert owner.notes(committable)
    assert not owner.notes(CommittedOffset(5))
    owner.committed = committable
    assert owner.is_noted
    begun = Assignment(P0, BEGINNING, [], CommittedOffset(5), 0, 4095, Crashes(3))
    assert not begun.is_noted


def test_an_owner_survives_when_the_calls_of_its_first_seconds_have_ended() -> None:
    begun = Assignment(P0, BEGINNING, [], None, 0, 4095, Crashes(3))
    assert not begun.survives(99.0)
    owner = Assignment(P0, 0, [], None, 0, 4095, Crashes(3))
    [piece] = owner.deliver(batch(0, 1))
    owner.crashes.begins(0, 1.0)
    owner.read_to(5)
    owner.offset_tracker.done(0, 1)  # type: ignore[union-attr]
    run = SliceRun(owner, piece, 2.0)
    owner.running[run] = None
    assert not owner.survives(99.0)
    owner.running.clear()
    assert owner.survives(1.0 + SETTLED)


@pytest.mark.parametrize(
    ("committed", "offset", "latest", "owes"),
    [
        (None, CommittedOffset(5), False, False),
        (None, CommittedOffset(5), True, True),
        (None, CommittedOffset(6), False, True),
        (CommittedOffset(5), CommittedOffset(6), False, True),
        (CommittedOffset(5), CommittedOffset(5, OffsetTracker(5, [(7, 8)]).metadata()), False, True),
        (CommittedOffset(5, OffsetTracker(5).metadata(Mark(0))), CommittedOffset(5), True, False),
        (CommittedOffset(5), CommittedOffset(5, OffsetTracker(5).metadata(Mark(0))), False, False),
    ],
)
def test_what_repeats_nothing_is_not_owed(
    committed: CommittedOffset | None, offset: CommittedOffset, latest: bool, owes: bool
) -> None:
    owner = Assignment(P0, 5, [], committed, 0, 4095)
    assert owner.owes({P0: offset}, latest) is owes

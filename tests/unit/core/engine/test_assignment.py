"""What of a batch is to be worked, and a partition's life."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.engine.assignment import TRANSITIONS, Assignment, Event, Phase, Slice
from flux.core.ports import BEGINNING, CommittedOffset
from unit.support.engine_support import P0, FakeRecord, message, record


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


def test_without_a_position_the_first_record_says_where_the_partition_begins() -> None:
    owner = Assignment(P0, BEGINNING, [], None, 0, 4095)
    assert owner.position is None
    assert pieces(owner, 40, 41) == [([40, 41], 42)]
    assert owner.position == CommittedOffset(40)


def test_a_gap_before_and_between_batches_is_done() -> None:
    owner = owned(3)
    pieces(owner, 5)
    assert owner.position == CommittedOffset(5)
    pieces(owner, 9)
    assert owner.offset_tracker is not None
    owner.offset_tracker.done(5, 6)
    assert owner.position == CommittedOffset(9)


@pytest.mark.parametrize("offsets", [(5, 9, 10), (5, 9)])
def test_a_gap_behind_a_record_that_another_owner_has_done_holds_no_position(offsets: tuple[int, ...]) -> None:
    owner = owned(3, [(5, 6), (10, 11)])
    pieces(owner, 3, *offsets)
    assert owner.offset_tracker is not None
    owner.offset_tracker.done(3, 5)
    assert owner.position is not None
    assert owner.position.offset == 9


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
    assert owner.position == CommittedOffset(log[-1] + 1)


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


def test_a_record_owns_the_offsets_up_to_the_next_one() -> None:
    piece = Slice(batch(3, 5, 9), 12)
    assert (len(piece), piece.place) == (3, (0, 3))
    assert [piece.after(index) for index in range(3)] == [5, 9, 12]
    assert piece.ranges(0, 3) == [(3, 12)]
    assert piece.ranges(1, 2) == [(5, 9)]
    assert piece.size == 3 * len(b"kv")


def test_records_in_due_order_own_ranges_of_their_own() -> None:
    piece = due_order()
    assert piece.place == (10, 5)
    assert piece.after(0) == 9
    assert piece.ranges(0, 3) == [(5, 9), (3, 5), (9, 12)]
    assert piece.ranges(1, 3) == [(3, 5), (9, 12)]
    adjacent = Slice(batch(3, 5, 9), 0, None, [1, 1, 1], [5, 9, 12])
    assert adjacent.ranges(0, 3) == [(3, 12)]


def due_order() -> Slice:
    records = batch(5, 3, 9)
    piece = Slice(records, 0, [message(one) for one in records], [10, 20, 30], [9, 5, 12])
    piece.since = 7.0
    return piece


def test_a_part_of_a_slice_keeps_what_its_records_own() -> None:
    first, last = Slice(batch(3, 5, 9), 12).part(0, 1), Slice(batch(3, 5, 9), 12).part(1)
    assert [(one.records[0].offset(), one.end) for one in (first, last)] == [(3, 5), (5, 12)]
    part = due_order().part(1, 2)
    assert (part.dues, part.ends, part.since, len(part.messages or ())) == ([20], [5], 7.0, 1)


def test_records_are_picked_one_by_one() -> None:
    piece = Slice(batch(3, 5, 9, 10), 12)
    assert piece.picked([1, 2]).ranges(0, 2) == [(5, 10)]
    apart = piece.picked([0, 2])
    assert (apart.ranges(0, 2), apart.messages, apart.dues) == ([(3, 5), (9, 10)], None, None)
    due = due_order().picked([0, 2])
    assert (due.dues, due.ends, due.since) == ([10, 30], [9, 12], 7.0)
    assert [one.offset for one in due.messages or ()] == [5, 9]


def test_an_entry_has_what_its_record_owns_and_its_due_time() -> None:
    owner = owned()
    piece = due_order()
    entry = piece.entry(owner, 1, piece.message(1))
    assert (entry.offset, entry.end, entry.due, entry.since) == (3, 5, 20, 7.0)
    assert repr(entry) == "<Entry t[0]@3>"
    assert not entry.done
    assert owner.offset_tracker is not None
    owner.offset_tracker.done(0, 9)
    assert entry.done
    plain = Slice(batch(3), 4)
    assert plain.entry(owner, 0, plain.message(0)).due == 0
    assert plain.message(0).stage == 0


def test_what_was_read_moves_the_committable_offset_of_a_partition_without_records() -> None:
    owner = Assignment(P0, BEGINNING, [], None, 0, 4095)
    assert owner.read_to(7)
    assert owner.position == CommittedOffset(7)
    assert not owner.read_to(7)
    assert owner.read_to(9)
    pieces(owner, 9, 10)
    assert not owner.read_to(20)


def test_what_is_given_back_is_in_order_again() -> None:
    owner = owned()
    first, second, third = (Slice(batch(offset), offset + 1) for offset in (0, 1, 2))
    owner.backlog.extend([first, third])
    owner.give_back(second)
    assert list(owner.backlog) == [first, second, third]
    assert owner.backlogged == 1


def test_its_repr_names_partition_and_phase() -> None:
    assert repr(owned()) == "<Assignment t[0] working>"

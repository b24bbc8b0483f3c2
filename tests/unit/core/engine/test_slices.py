"""Slices of records and what offsets each record owns; entries that track one."""

from __future__ import annotations

from flux.core.engine.slices import Entry, Slice
from unit.support.engine_support import FakeRecord, assignment, message, record


def batch(*offsets: int) -> list[FakeRecord]:
    return [record(offset) for offset in offsets]


def due_order() -> Slice:
    records = batch(5, 3, 9)
    piece = Slice(records, 0, [message(one, 1) for one in records], [10, 20, 30], [9, 5, 12])
    piece.since = 7.0
    return piece


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


def test_the_offsets_that_records_own_are_counted() -> None:
    piece = Slice(batch(3, 5, 9), 12)
    assert (piece.owned(0, 3), piece.owned(0, 1), piece.owned(1, 3)) == (9, 2, 7)
    assert (due_order().owned(0, 3), due_order().owned(1, 2)) == (9, 2)


def test_a_part_of_a_slice_keeps_what_its_records_own() -> None:
    first, last = Slice(batch(3, 5, 9), 12).part(0, 1), Slice(batch(3, 5, 9), 12).part(1)
    assert [(one.records[0].offset(), one.end) for one in (first, last)] == [(3, 5), (5, 12)]
    assert Slice(batch(3, 5, 9), 12).part(1, 3).ranges(0, 2) == [(5, 12)]
    part = due_order().part(1, 2)
    assert (part.due_times, part.ends, part.since, len(part.messages or ())) == ([20], [5], 7.0, 1)


def test_records_are_picked_one_by_one() -> None:
    piece = Slice(batch(3, 5, 9, 10), 12)
    for indices, owned in (([1, 2], (5, 10)), ([2], (9, 10))):
        together = piece.picked(indices)
        assert (len(together), together.ranges(0, len(indices)), together.ends) == (len(indices), [owned], None)
    apart = piece.picked([0, 2])
    assert (apart.ranges(0, 2), apart.messages, apart.due_times) == ([(3, 5), (9, 10)], None, None)
    due = due_order().picked([0, 2])
    assert (due.due_times, due.ends, due.since) == ([10, 30], [9, 12], 7.0)
    assert [one.offset for one in due.messages or ()] == [5, 9]


def test_an_entry_has_what_its_record_owns_and_its_due_time() -> None:
    owner = assignment()
    piece = due_order()
    entry = piece.entry(owner, 1, piece.message(1))
    assert (entry.offset, entry.end, entry.due, entry.since) == (3, 5, 20, 7.0)
    assert repr(entry) == "<Entry t[0]@3>"
    assert not entry.done
    assert owner.offset_tracker is not None
    owner.offset_tracker.done(0, 9)
    assert entry.done
    plain = Slice(batch(3), 4)
    plain.since = 4.0
    read = plain.message(0)
    assert (read.stage, read.offset, read.value) == (0, 3, b"v")
    one = plain.entry(owner, 0, read)
    assert (one.message, one.due, one.since) == (read, 0, 4.0)


def test_a_record_could_be_called_when_it_was_due_if_it_was_here_by_then() -> None:
    piece = due_order()
    piece.epoch, piece.due_times = 1000.0, [1_006_000, 1_009_000, 1_009_500]
    assert [piece.entry(assignment(), index, piece.message(index)).since for index in range(3)] == [7.0, 9.0, 9.5]


def test_a_new_entry_waits_for_its_first_call_and_a_new_slice_has_no_times() -> None:
    one, piece = Entry(assignment(), message(record(3)), 3, 4), Slice(batch(3), 4)
    assert (one.key_queue, one.due, one.since, one.tries, one.waits) == (None, 0, 0.0, 0, False)
    assert (piece.since, piece.epoch) == (0.0, 0.0)


def test_an_entry_is_a_slice_of_one_record_again() -> None:
    owner, main, retried = assignment(), Slice(batch(3, 5), 9), due_order()
    one = Slice.of(main.entry(owner, 1, main.message(1)))
    assert (one.records, one.end, one.messages, one.place) == (main.records[1:], 9, None, (0, 5))
    entry = retried.entry(owner, 1, retried.message(1))
    again = Slice.of(entry)
    assert (again.records, again.messages, again.place, again.ranges(0, 1)) == (
        retried.records[1:2],
        [entry.message],
        (20, 3),
        [(3, 5)],
    )
    assert again.entry(owner, 0, entry.message).since == entry.since

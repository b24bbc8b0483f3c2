"""Records that wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.engine.assignment import Assignment
from flux.core.engine.delay_queue import DelayQueue
from flux.core.engine.slices import Slice
from unit.support.engine_support import P1, assignment, message, record

Place = tuple[int, int]
"""Due time and offset."""


def piece(*places: Place) -> Slice:
    """Records in due order, as those of one poll; each owns its own offset."""
    records = [record(offset) for _, offset in places]
    in_order = list(places) == sorted(places, key=lambda place: place[1])
    ends = None if in_order else [offset + 1 for _, offset in places]
    messages = [message(one) for one in records]
    return Slice(records, places[-1][1] + 1, messages, [due for due, _ in places], ends)


def places(pieces: list[Slice]) -> list[Place]:
    return [(due, one.offset()) for each in pieces for due, one in zip(each.due_times or (), each.records, strict=True)]


def take(delay_queue: DelayQueue, now_ms: int, most: int = 500) -> tuple[Assignment, list[Place]]:
    taken = delay_queue.due(now_ms, most)
    assert taken is not None
    return taken[0], places(taken[1])


def test_nothing_comes_before_its_time() -> None:
    delay_queue, owner = DelayQueue(), assignment()
    delay_queue.add(owner, piece((1000, 0), (2000, 1)), 2)
    assert delay_queue.next_due == 1000
    assert delay_queue.due(999, 500) is None
    assert take(delay_queue, 1000) == (owner, [(1000, 0)])
    assert delay_queue.next_due == 2000
    assert delay_queue.due(1999, 500) is None
    assert take(delay_queue, 10**15) == (owner, [(2000, 1)])
    assert delay_queue.next_due is None
    assert delay_queue.due(10**15, 500) is None


def test_what_is_due_is_a_slice_as_it_came() -> None:
    delay_queue, owner = DelayQueue(), assignment()
    delay_queue.add(owner, piece(*((1000 + number, number) for number in range(100))), 100)
    taken = delay_queue.due(1059, 500)
    assert taken is not None
    [first] = taken[1]
    assert first.ranges(0, len(first)) == [(0, 60)]
    assert (owner.waiting, owner.waiting_bytes) == (40, 40)


def test_a_partition_with_a_backlog_is_left_to_it_and_the_others_are_not() -> None:
    delay_queue, busy, free = DelayQueue(), assignment(), assignment(partition=P1)
    delay_queue.add(busy, piece((1000, 0)), 1)
    delay_queue.add(free, piece((2000, 0)), 1)
    busy.backlog.append(piece((500, 7)))
    assert take(delay_queue, 3000) == (free, [(2000, 0)])
    assert delay_queue.due(3000, 500) is None
    assert delay_queue.next_due == 1000
    busy.backlog.clear()
    assert take(delay_queue, 3000) == (busy, [(1000, 0)])


def test_what_is_brought_forward_is_due_at_once_in_offset_order() -> None:
    delay_queue, owner, other = DelayQueue(), assignment(), assignment(partition=P1)
    delay_queue.add(owner, piece((1000, 3), (5000, 0), (6000, 1), (7000, 2)), 40)
    delay_queue.add(owner, piece((6000, 4), (8000, 5)), 20)
    delay_queue.add(other, piece((9000, 6)), 5)
    before = owner.waiting, owner.waiting_bytes, owner.waiting_offsets
    delay_queue.bring_forward(lambda message: message.offset in (0, 2, 3, 5, 6), 2000)
    assert (owner.waiting, owner.waiting_bytes, owner.waiting_offsets) == before
    assert len(delay_queue) == 7
    assert take(delay_queue, 2000) == (owner, [(1000, 3), (2000, 0), (2000, 2), (2000, 5)])
    assert take(delay_queue, 2000) == (other, [(2000, 6)])
    assert take(delay_queue, 6000) == (owner, [(6000, 1), (6000, 4)])
    assert delay_queue.next_due is None
    assert (owner.waiting, owner.waiting_bytes, owner.waiting_offsets, len(delay_queue)) == (0, 0, 0, 0)


def test_what_is_left_of_a_slice_is_not_due_earlier_after_others_were_brought_forward() -> None:
    delay_queue, owner = DelayQueue(), assignment()
    delay_queue.add(owner, piece((1000, 0), (5000, 1)), 20)
    assert take(delay_queue, 1000) == (owner, [(1000, 0)])
    delay_queue.bring_forward(lambda message: False, 2000)
    assert (delay_queue.due(2000, 10), delay_queue.next_due) == (None, 5000)


@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 12), min_size=1, max_size=9)), max_size=12),
    st.integers(1, 30),
)
def test_due_order_with_ties_by_offset_and_counts_that_are_right(
    polls: list[tuple[bool, list[int]]], most: int
) -> None:
    delay_queue, owners = DelayQueue(), (assignment(), assignment(partition=P1))
    left: dict[Assignment, list[Place]] = {owner: [] for owner in owners}
    offset = 0
    for second, due_times in polls:
        came = sorted((due, offset + number) for number, due in enumerate(due_times))
        offset += len(due_times)
        delay_queue.add(owners[second], piece(*came), len(due_times))
        left[owners[second]] += came
    for now in (3, 7, 12):
        while (taken := delay_queue.due(now, most)) is not None:
            owner, got = taken[0], places(taken[1])
            here = sorted(left[owner])
            assert got == here[: len(got)]
            assert len(got) == min(most, sum(due <= now for due, _ in here))
            left[owner] = here[len(got) :]
            for each in owners:
                assert each.waiting == each.waiting_bytes == len(left[each])
            assert len(delay_queue) == sum(map(len, left.values()))
            assert delay_queue.next_due == min((due for due, _ in left[owners[0]] + left[owners[1]]), default=None)
    assert len(delay_queue) == 0


def test_what_is_dropped_is_forgotten_and_the_other_partition_keeps_its_order() -> None:
    delay_queue, gone, stays = DelayQueue(), assignment(), assignment(partition=P1)
    kept = [(100 - offset, offset) for offset in range(20)]
    for number, place in enumerate(kept):
        delay_queue.add(gone, piece((number, number)), 1)
        delay_queue.add(stays, piece(place), 1)
    delay_queue.add(gone, piece((20, 20)), 1)
    delay_queue.drop(gone)
    assert (gone.waiting, gone.waiting_bytes) == (0, 0)
    assert stays.waiting == len(delay_queue) == 20
    assert take(delay_queue, 1000) == (stays, sorted(kept))


def test_a_partition_that_has_nothing_is_dropped_without_effect() -> None:
    owner = assignment()
    delay_queue = DelayQueue()
    delay_queue.drop(owner)
    assert (len(delay_queue), owner.waiting) == (0, 0)


@pytest.mark.parametrize(("merges", "records", "slices"), [(True, 49, 1), (True, 50, 2), (False, 49, 2)])
def test_few_records_of_several_slices_are_taken_as_one_slice(merges: bool, records: int, slices: int) -> None:
    delay_queue, owner = DelayQueue(merges), assignment()
    for number in range(2):
        delay_queue.add(owner, piece(*((number, records * number + offset) for offset in range(records))), records)
    taken = delay_queue.due(10, 500)
    assert taken is not None
    assert len(taken[1]) == slices
    owned = [each for one in taken[1] for each in one.ranges(0, len(one))]
    assert owned[0][0] == 0
    assert owned[-1][1] == 2 * records
    assert [each.offset for one in taken[1] for each in one.messages or ()] == [*range(2 * records)]


def test_records_of_slices_that_interleave_keep_what_they_own() -> None:
    delay_queue, owner = DelayQueue(), assignment()
    delay_queue.add(owner, piece((1, 0), (3, 1), (5, 2)), 3)
    delay_queue.add(owner, piece((2, 3), (4, 7)), 2)
    taken = delay_queue.due(4, 500)
    assert taken is not None
    [merged] = taken[1]
    assert [(one.offset(), merged.after(index)) for index, one in enumerate(merged.records)] == [
        (0, 1),
        (3, 7),
        (1, 2),
        (7, 8),
    ]


def test_the_bytes_of_a_slice_go_with_its_records() -> None:
    delay_queue, owner = DelayQueue(), assignment()
    delay_queue.add(owner, piece((1, 0), (2, 1), (3, 2)), 10)
    left = []
    for now in (1, 2, 3):
        delay_queue.due(now, 500)
        left.append((owner.waiting, owner.waiting_bytes))
    assert left == [(2, 7), (1, 4), (0, 0)]


def test_the_offsets_of_what_waits_are_counted_however_it_leaves() -> None:
    delay_queue, owner = DelayQueue(), assignment()
    delay_queue.add(owner, Slice([record(0), record(4), record(5)], 6, [], [1, 2, 3]), 3)
    delay_queue.add(owner, piece((2, 9), (3, 7)), 2)
    left = [owner.waiting_offsets]
    for now in (1, 2):
        delay_queue.due(now, 500)
        left.append(owner.waiting_offsets)
    delay_queue.drop(owner)
    assert [*left, owner.waiting_offsets] == [8, 4, 2, 0]


def test_no_more_records_are_taken_than_asked_for_from_several_slices() -> None:
    delay_queue, owner = DelayQueue(), assignment()
    delay_queue.add(owner, piece((1, 0), (2, 1)), 2)
    delay_queue.add(owner, piece(*((3, offset) for offset in range(2, 9))), 7)
    assert take(delay_queue, 9, most=3)[1] == [(1, 0), (2, 1), (3, 2)]


def test_records_with_one_due_time_are_taken_by_offset_from_slices_in_any_order() -> None:
    delay_queue, owner = DelayQueue(), assignment()
    delay_queue.add(owner, piece((1, 0), (5, 9), (6, 3)), 3)
    delay_queue.add(owner, piece((5, 7)), 1)
    assert take(delay_queue, 9)[1] == [(1, 0), (5, 7), (5, 9), (6, 3)]


def test_what_is_withheld_counts_as_waiting_and_is_due_only_when_it_is_released() -> None:
    delay_queue, owner, other = DelayQueue(), assignment(), assignment(partition=P1)
    delay_queue.add(owner, piece((1000, 0), (2000, 1)), 2, withheld=True)
    delay_queue.add(owner, piece((500, 2)), 1, withheld=True)
    assert (len(delay_queue), owner.waiting, owner.waiting_bytes, owner.waiting_offsets) == (3, 3, 3, 3)
    assert delay_queue.next_due is None
    assert delay_queue.due(10**15, 500) is None
    assert delay_queue.withheld == [owner]
    delay_queue.release(other)
    delay_queue.release(owner)
    assert delay_queue.withheld == []
    assert take(delay_queue, 10**15) == (owner, [(500, 2), (1000, 0), (2000, 1)])
    assert len(delay_queue) == 0


@pytest.mark.parametrize("more", [False, True])
def test_what_is_withheld_is_discarded_with_its_partition(more: bool) -> None:
    delay_queue, owner = DelayQueue(), assignment()
    delay_queue.add(owner, piece((1000, 0)), 1, withheld=True)
    if more:
        delay_queue.add(owner, piece((1000, 1)), 1)
    delay_queue.drop(owner)
    assert (len(delay_queue), owner.waiting, delay_queue.withheld) == (0, 0, [])
    delay_queue.release(owner)
    assert delay_queue.next_due is None

"""Which records go into one call: of one partition, as many as may be, in order, none whose key is held."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.engine.assignment import Assignment
from flux.core.engine.batches import Batches, OpenBatch
from flux.core.engine.ordering import Ordering
from flux.core.engine.runs import BatchRun
from flux.core.engine.slices import Entry
from unit.support.engine_support import P1, T0, assignment, entry


def owned(max_metadata: int = 4095, ends: int = 100) -> Assignment:
    made = assignment(max_metadata=max_metadata)
    list(made.deliver([entry(made, offset).message._record for offset in range(ends)]))
    return made


def batches(most: int = 3, wait: float = 1.0, ordering: Ordering = "key") -> Batches:
    return Batches(OpenBatch(most, wait), ordering)


def added(
    queues: Batches, owner: Assignment, *offsets: int, since: float = T0, keys: Sequence[bytes | None] = ()
) -> None:
    for index, offset in enumerate(offsets):
        made = entry(owner, offset, keys[index] if keys else str(offset).encode())
        made.since = since
        queues.add(made)


def offsets(entries: list[Entry]) -> list[int]:
    return [each.offset for each in entries]


def test_a_full_batch_is_taken_at_once_and_what_is_left_waits_for_more() -> None:
    queues, owner = batches(), owned()
    added(queues, owner, 0, 1, 2, 3)
    assert queues.ready(T0) == 1
    taken = queues.take(1, T0)
    assert offsets(taken) == [0, 1, 2]
    assert queues.take(1, T0) == []
    assert queues.deadline() == T0 + 1


def test_a_batch_that_is_not_full_is_taken_when_its_first_record_has_waited() -> None:
    queues, owner = batches(), owned()
    added(queues, owner, 0)
    added(queues, owner, 1, since=T0 + 0.9)
    assert queues.take(1, T0 + 0.999) == []
    assert queues.deadline() == T0 + 1
    assert offsets(queues.take(1, T0 + 1)) == [0, 1]


@given(st.floats(0, 2e9), st.floats(0, 300))
def test_a_batch_is_taken_at_the_very_time_that_is_named_for_it(since: float, wait: float) -> None:
    queues, owner = batches(wait=wait), owned()
    added(queues, owner, 0, since=since)
    named = queues.deadline()
    assert named is not None
    assert queues.ready(named) == 1


def test_a_clock_that_is_set_back_holds_nothing_up() -> None:
    queues, owner = batches(), owned()
    added(queues, owner, 0)
    assert offsets(queues.take(1, T0 - 100)) == [0]


def test_one_batch_is_in_flight_per_partition_and_partitions_take_turns() -> None:
    queues, first, second = batches(most=1), owned(), owned()
    added(queues, first, 0, 1)
    added(queues, second, 0)
    [one] = queues.take(1, T0)
    assert one.assignment is first
    first.running[BatchRun([one], T0)] = None
    assert queues.ready(T0) == 1
    [other] = queues.take(1, T0)
    assert other.assignment is second
    second.running[BatchRun([other], T0)] = None
    assert queues.take(1, T0) == []
    assert queues.deadline() is None
    first.running.clear()
    assert offsets(queues.take(1, T0)) == [1]


def test_the_partition_that_had_its_turn_is_the_last_to_have_another() -> None:
    queues, first, second = batches(most=1), owned(), owned()
    added(queues, first, 0, 1)
    added(queues, second, 0)
    assert [queues.take(1, T0)[0].assignment for _ in range(3)] == [first, second, first]


def test_a_held_key_stays_behind_in_its_order_and_the_others_go_on() -> None:
    queues, owner = batches(), owned()
    held = entry(owner, 0, b"a")
    queues.begin(held)
    queues.end(held)
    queues.hold(held)
    added(queues, owner, 1, 2, 3, 4, keys=(b"b", b"a", b"c", b"a"))
    assert offsets(queues.take(1, T0 + 1)) == [1, 3]
    queues.add_first(held)
    queues.release(held)
    assert offsets(queues.take(1, T0 + 1)) == [0, 2, 4]
    assert owner.in_key_queues == 5


def test_records_of_a_held_key_make_no_batch_full_and_have_no_deadline() -> None:
    queues, owner = batches(), owned()
    held = entry(owner, 0, b"a")
    queues.hold(held)
    added(queues, owner, 1, 2, keys=(b"a", b"a"))
    assert queues.ready(T0 + 9) == 0
    assert queues.deadline() is None
    added(queues, owner, 3, since=T0 + 9, keys=(b"b",))
    assert queues.take(1, T0 + 9) == []
    assert queues.deadline() == T0 + 10
    assert offsets(queues.take(1, T0 + 10)) == [3]


def test_one_partition_with_a_held_key_hides_no_deadline_of_another() -> None:
    queues, first, second = batches(), owned(), owned()
    queues.hold(entry(first, 0, b"a"))
    added(queues, first, 1, keys=(b"a",))
    added(queues, second, 0, since=T0 + 5)
    assert queues.deadline() == T0 + 6


def test_under_order_by_partition_a_hold_keeps_all_of_it() -> None:
    queues, owner = batches(ordering="partition"), owned()
    queues.hold(entry(owner, 0))
    added(queues, owner, 1, 2, 3)
    assert queues.take(1, T0 + 1) == []


def test_two_holds_of_a_key_need_two_releases() -> None:
    queues, owner = batches(), owned()
    first, second = entry(owner, 0, b"a"), entry(owner, 1, b"a")
    queues.hold(first)
    queues.hold(second)
    added(queues, owner, 2, keys=(b"a",))
    queues.release(first)
    assert queues.take(1, T0 + 1) == []
    queues.release(second)
    assert offsets(queues.take(1, T0 + 1)) == [2]


def test_what_is_given_back_stands_where_it_was() -> None:
    queues, owner = batches(), owned()
    added(queues, owner, 0, 1, 2, 3)
    taken = queues.take(1, T0)
    queues.give_back([taken[2]])
    queues.give_back([taken[0]])
    queues.end(taken[1])
    assert offsets(queues.take(1, T0)) == [0, 2, 3]
    assert (owner.in_key_queues, owner.in_flight) == (3, 3)


def test_in_a_retry_stage_what_is_given_back_stands_by_its_due_time() -> None:
    queues, owner = batches(most=2), owned()
    for offset, due in ((5, 1), (3, 2), (1, 3)):
        made = entry(owner, offset, due=due)
        made.since = T0
        queues.add(made)
    taken = queues.take(1, T0)
    for each in reversed(taken):
        queues.give_back([each])
    assert offsets(queues.take(1, T0)) == [5, 3]


def test_a_dropped_partition_leaves_neither_records_nor_held_keys() -> None:
    queues, first, second = batches(), owned(), owned()
    held = entry(first, 0, b"a")
    queues.hold(held)
    added(queues, first, 1, 2, 3)
    added(queues, second, 0)
    queues.drop(first)
    queues.release(held)
    assert len(queues) == 1
    assert [each.assignment for each in queues.take(1, T0 + 1)] == [second]


def test_a_batch_is_as_large_as_the_metadata_has_room_for() -> None:
    queues, owner = batches(most=100), owned(max_metadata=0)
    added(queues, owner, *range(5))
    assert offsets(queues.take(1, T0 + 1)) == [0]


@pytest.mark.parametrize("ordering", ["key", "partition", "none"])
def test_with_no_room_the_record_that_holds_the_position_is_found_wherever_it_stands(ordering: Ordering) -> None:
    queues, owner = batches(most=100, ordering=ordering), owned(max_metadata=0)
    for offset, due in ((5, 1), (6, 2), (0, 3)):
        made = entry(owner, offset, due=due)
        made.since = T0
        queues.add(made)
    taken = queues.take(1, T0 + 1)
    assert 0 in offsets(taken)
    assert offsets(taken) == sorted(offsets(taken), key=[5, 6, 0].index)
    assert (offsets(taken) == [0]) == (ordering == "none")


def test_a_key_with_no_room_is_not_overtaken_by_its_own_records() -> None:
    queues, owner = batches(most=100), owned(max_metadata=0)
    added(queues, owner, 5, 7, 0, keys=(b"a", b"a", b"b"))
    assert offsets(queues.take(1, T0 + 1)) == [0]
    assert len(queues) == 2


def test_a_record_that_has_room_is_not_called_before_an_earlier_one_of_its_key_that_has_none() -> None:
    owner = assignment(max_metadata=30)
    other = assignment(partition=P1)
    batches = Batches(OpenBatch(2, 0.0), "key")
    assert not batches
    batches.begin(entry(owner, 1, b"z"))
    far, near = entry(owner, 10**9, b"x", due=1), entry(owner, 3, b"x", due=2)
    apart = entry(other, 0, b"x")
    for one in (far, near, apart):
        batches.add(one)
    assert batches
    assert batches.take(1, 1.0) == [apart]
    assert batches.take(1, 1.0) == []
    assert len(batches) == 2


def test_a_hold_of_a_partition_that_was_dropped_is_released_without_effect() -> None:
    owner = assignment()
    batches = Batches(OpenBatch(), "key")
    held = entry(owner, 0, b"x")
    batches.hold(held)
    batches.drop(owner)
    batches.release(held)
    assert owner.in_key_queues == 0


def test_a_record_without_a_key_holds_no_other() -> None:
    owner = assignment()
    batches = Batches(OpenBatch(1, 0.0), "key")
    held, other = entry(owner, 0, None), entry(owner, 1, None)
    batches.hold(held)
    batches.add(other)
    assert batches.take(1, 0.0) == [other]
    batches.release(held)

"""Slices keep the order of their partition, and partitions take turns."""

from __future__ import annotations

from flux.core.engine.assignment import Assignment
from flux.core.engine.backlog import Backlogs
from flux.core.engine.crashes import Crashes, Mark
from flux.core.engine.slices import Slice
from flux.core.ports import TopicPartition
from unit.support.engine_support import P0, P1, assignment, record


def piece(first: int, last: int) -> Slice:
    return Slice([record(offset) for offset in range(first, last + 1)], last + 1)


def taken(backlogs: Backlogs) -> list[tuple[int, int]]:
    """(partition, first offset) of all slices, in the order in which they are taken."""
    found = []
    while len(backlogs):
        number = backlogs.next.partition.partition
        found.append((number, backlogs.take().records[0].offset()))
    return found


def two(*slices: tuple[Assignment, Slice]) -> Backlogs:
    backlogs = Backlogs()
    for owner, each in slices:
        backlogs.add(owner, each)
    return backlogs


def test_partitions_take_turns_and_slices_keep_their_order() -> None:
    first, second = assignment(partition=P0), assignment(partition=P1)
    backlogs = two((first, piece(0, 1)), (first, piece(2, 3)), (second, piece(0, 0)))
    assert (len(backlogs), list(backlogs), first.backlogged) == (2, [first, second], 4)
    assert taken(backlogs) == [(0, 0), (1, 0), (0, 2)]
    assert (first.backlogged, first.queued, second.queued) == (0, False, False)


def test_a_turn_can_be_passed_on() -> None:
    first, second, third = (assignment(partition=TopicPartition("t", number)) for number in range(3))
    backlogs = two((first, piece(0, 1)), (second, piece(0, 1)), (third, piece(0, 1)))
    backlogs.pass_on()
    assert list(backlogs) == [second, third, first]


def test_what_is_given_back_is_the_first_of_its_partition_again() -> None:
    first = assignment()
    backlogs = two((first, piece(0, 1)), (first, piece(2, 3)))
    last = (backlogs.take(), backlogs.take())[1]
    backlogs.give_back(first, last)
    backlogs.give_back(first, piece(1, 1))
    assert taken(backlogs) == [(0, 1), (0, 2)]


def test_a_partition_that_is_gone_loses_its_turn() -> None:
    first, second = assignment(partition=P0), assignment(partition=P1)
    backlogs = two((first, piece(0, 1)), (second, piece(0, 1)))
    backlogs.drop(first)
    backlogs.drop(first)
    assert (list(backlogs), first.backlogged) == ([second], 0)


# ---- records that may not be taken as usual


def careful(partition: TopicPartition, *crashes: Mark) -> Assignment:
    return Assignment(partition, 0, [], None, 0, 4095, Crashes(3, *crashes))


def held(owner: Assignment) -> list[list[int]]:
    return [[each.offset() for each in piece.records] for piece in owner.held]


def test_a_partition_whose_records_are_held_has_no_turn_until_some_are_released() -> None:
    first, second = careful(P0), assignment(partition=P1)
    backlogs = two((first, piece(0, 3)), (first, piece(4, 5)), (second, piece(0, 0)))
    assert (len(backlogs), list(backlogs), list(backlogs.held)) == (1, [second], [first])
    assert list(backlogs.all) == [second, first]
    backlogs.release(first, 3)
    assert (held(first), first.backlogged) == ([[3], [4, 5]], 6)
    assert list(backlogs.all) == [second, first]
    backlogs.release(first, 2)
    assert held(first) == [[5]]
    backlogs.release(first, 9)
    assert list(backlogs.held) == []
    assert taken(backlogs) == [(1, 0), (0, 0), (0, 3), (0, 4), (0, 5)]


def test_records_that_are_held_can_be_taken_one_by_one() -> None:
    owner = careful(P0)
    backlogs = two((owner, piece(0, 1)), (owner, piece(2, 2)))
    one_by_one = [backlogs.take_held(owner) for _ in range(3)]
    assert [(each.records[0].offset(), each.end, len(each)) for each in one_by_one] == [(0, 1, 1), (1, 2, 1), (2, 3, 1)]
    assert owner.backlogged == 0
    assert not backlogs.held


def test_what_is_given_back_is_held_again_only_if_it_is_to_be_called_alone() -> None:
    alone, window = careful(P0, Mark(1)), careful(P1, Mark(0))
    backlogs = two((alone, piece(0, 1)), (window, piece(0, 1)))
    backlogs.give_back(alone, backlogs.take_held(alone))
    backlogs.give_back(window, backlogs.take_held(window))
    assert (held(alone), held(window), taken(backlogs)) == ([[0], [1]], [[1]], [(1, 0)])
    last = [backlogs.take_held(alone) for _ in range(2)][-1]
    backlogs.give_back(alone, last)
    assert (list(backlogs.held), alone.backlogged) == ([window, alone], 1)


def test_what_is_dropped_of_it_is_gone() -> None:
    owner = careful(P0)
    backlogs = two((owner, piece(0, 1)))
    backlogs.drop(owner)
    assert not backlogs.held
    assert (held(owner), owner.backlogged) == ([], 0)


def test_the_next_slice_can_be_replaced_by_a_part_of_it_or_by_nothing() -> None:
    first, second = assignment(partition=P0), assignment(partition=P1)
    backlogs = two((first, piece(0, 3)), (first, piece(4, 4)), (second, piece(0, 0)))
    backlogs.replace_next(piece(0, 3).part(1, 3))
    assert first.backlogged == 3
    backlogs.replace_next(None)
    assert (first.backlogged, len(backlogs)) == (1, 2)
    backlogs.replace_next(None)
    assert (first.backlogged, first.queued, list(backlogs)) == (0, False, [second])


def test_what_is_held_again_is_in_order() -> None:
    owner = careful(P0, Mark(1))
    backlogs = two((owner, piece(0, 2)), (owner, piece(5, 5)))
    first, second = backlogs.take_held(owner), backlogs.take_held(owner)
    backlogs.hold(owner, second)
    backlogs.hold(owner, first)
    backlogs.hold(owner, piece(3, 4))
    assert (held(owner), owner.backlogged) == ([[0], [1], [2], [3, 4], [5]], 6)

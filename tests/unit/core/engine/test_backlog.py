"""Slices keep the order of their partition, and partitions take turns."""

from __future__ import annotations

from flux.core.engine.assignment import Assignment
from flux.core.engine.backlog import Backlogs
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

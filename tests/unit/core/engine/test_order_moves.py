"""What is written before what when records of a key move."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from flux.core.engine.assignment import Assignment
from flux.core.engine.commits import Commits
from flux.core.engine.forwarding import Forward, Forwards
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.key_order import OrderEntry
from flux.core.engine.order_moves import Move, Moves
from flux.core.engine.order_writes import entry_write, following_copy
from flux.core.engine.slices import Entry
from unit.support.engine_support import P1, STAGES, assignment, entry

NAME = (0, b"k")


@attrs.define
class Made:
    forwards: Forwards = attrs.field(factory=Forwards)
    closed: list[int] = attrs.field(factory=list)
    owner: Assignment = attrs.field(factory=assignment)
    moves: Any = None

    def move(self, offset: int, *, enters: bool = True, removes: bool = False, owner: Assignment | None = None) -> Move:
        one = entry(owner or self.owner, offset)
        steps: list[ForwardedCopy] = [following_copy(one.message, STAGES[1], "g", said(offset), 0.0)]
        if enters:
            steps.insert(0, entry_write(one.message, "keys", (0, offset), said(offset)))
        if removes:
            steps.append(entry_write(one.message, "keys", (0, offset), None))
        made = Move(one, NAME, (0, offset), steps)
        self.moves.add(made)
        return made

    def writes(self) -> list[Forward]:
        return list(self.forwards.take(0.0))

    def written(self, *forwards: Forward) -> None:
        for forward in forwards:
            self.forwards.written(forward)
            self.moves.written(forward)

    def read(self, offset: int, version: int = 5) -> None:
        self.moves.read(NAME, (0, offset), attrs.evolve(said(offset), version=version))
        self.moves.advance(NAME)


def said(offset: int) -> OrderEntry:
    return OrderEntry(b"k", 1, offset, 0)


@pytest.fixture
def made() -> Made:
    one = Made()

    def close(closed: Entry) -> None:
        one.closed.append(closed.offset)

    one.moves = Moves(one.forwards, close)
    return one


def test_the_copy_is_written_when_its_entry_is_acknowledged_and_read(made: Made) -> None:
    move = made.move(3)
    [entered] = made.writes()
    made.read(3)
    assert made.writes() == []
    made.written(entered)
    [copy] = made.writes()
    assert (copy.forwarded_copy.order, move.version) == (5, 5)
    assert made.closed == []
    made.written(copy)
    assert made.closed == [3]
    assert NAME not in made.moves


def test_it_waits_to_read_what_was_acknowledged(made: Made) -> None:
    made.move(3)
    [entered] = made.writes()
    assert not made.moves.waiting
    made.written(entered)
    assert made.moves.waiting
    made.read(4)  # another one's
    assert made.writes() == []
    made.read(3)
    assert not made.moves.waiting
    assert len(made.writes()) == 1


def test_a_later_copy_waits_for_the_entries_of_all_earlier_moves(made: Made) -> None:
    made.move(3)
    made.move(4)
    first, second = made.writes()
    made.written(second)
    made.read(4)
    assert made.writes() == []
    made.written(first)
    made.read(3)
    assert len(made.writes()) == 2


def test_moves_are_closed_in_order(made: Made) -> None:
    for offset in (3, 4):
        made.move(offset)
    made.written(*made.writes())
    made.read(3)
    made.read(4)
    first, second = made.writes()
    made.written(second)
    assert made.closed == []
    made.written(first)
    assert made.closed == [3, 4]


def test_steps_without_an_entry_follow_each_other(made: Made) -> None:
    made.move(3, enters=False, removes=True)
    [copy] = made.writes()
    made.written(copy)
    [removal] = made.writes()
    assert removal.forwarded_copy.target.topic == "keys"
    made.written(removal)
    assert made.closed == [3]


def test_the_leader_is_the_first_move_that_sets_an_entry(made: Made) -> None:
    assert made.moves.leader(NAME) is None
    made.move(2, enters=False)
    assert made.moves.leader(NAME) is None
    made.move(3)
    made.move(4)
    assert made.moves.leader(NAME) == said(3)
    assert list(made.moves.names()) == [NAME]
    assert (made.moves.has(NAME, (0, 3)), made.moves.has(NAME, (0, 9))) == (True, False)


def test_a_removal_was_not_read(made: Made) -> None:
    made.move(3)
    made.moves.read(NAME, (0, 3), None)
    made.written(*made.writes())
    assert made.writes() == []


def test_other_forwards_are_not_its_own(made: Made) -> None:
    one = entry(made.owner, 9)
    forward = Forward(one, following_copy(one.message, STAGES[1], "g", said(9), 0.0), 1)
    assert made.moves.written(forward) is None
    made.moves.advance(NAME)


def test_moves_of_a_partition_that_is_gone_are_forgotten(made: Made) -> None:
    other = assignment(partition=P1)
    made.move(3)
    made.move(4, owner=other)
    made.written(*made.writes())
    assert made.moves.waiting
    made.moves.forget(made.owner)
    assert NAME in made.moves
    made.moves.forget(other)
    assert NAME not in made.moves
    assert not made.moves.waiting


# ---- in transactions


@pytest.fixture
def exact(made: Made) -> Made:
    made.moves = Moves(made.forwards, lambda closed: made.closed.append(closed.offset), Commits(1.0, 100))
    return made


def test_an_entry_and_its_copy_are_in_two_transactions_and_the_record_is_done_with_the_second(exact: Made) -> None:
    exact.move(3)
    [entered] = exact.writes()
    assert exact.moves.sealed([entered]) == ([], [])
    exact.written(entered)
    exact.read(3)
    [copy] = exact.writes()
    assert exact.moves.sealed([copy]) == ([copy], [])


def test_a_later_record_of_a_key_is_not_done_in_an_earlier_transaction(exact: Made) -> None:
    first, second = exact.move(3, enters=False), exact.move(4, enters=False)
    [one, two] = exact.writes()
    assert exact.moves.sealed([one, two]) == ([one, two], [])
    assert exact.moves.sealed([two]) == ([], [two])
    two.alone = True
    assert exact.moves.sealed([two]) == ([], [])
    first.ended = True
    assert exact.moves.sealed([two]) == ([two], [])
    assert not second.ended


def test_a_write_that_is_no_move_is_done_with_its_transaction(exact: Made) -> None:
    one = entry(exact.owner, 3)
    plain = Forward(one, following_copy(one.message, STAGES[1], "g", said(3), 0.0), 0)
    assert exact.moves.sealed([plain]) == ([plain], [])


def test_each_write_makes_a_transaction_due(exact: Made) -> None:
    exact.move(3)
    assert exact.moves._transactions.done == 1

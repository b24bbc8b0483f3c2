"""Ways to break the order through retries: one for each step of its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flux.consuming import procedures
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.key_order import KeyName, KeyOrder, OrderEntry, Origin
from flux.core.engine.order_moves import Move, Moves
from flux.core.engine.order_places import Holds, place_of
from flux.core.engine.order_steps import OrderSteps
from flux.core.engine.ordered_retries import OrderedRetries
from flux.core.engine.slices import Entry
from flux.core.engine.suspects import Suspects
from simulation.features import KILLS
from simulation.mutants import Mutation, mutant
from simulation.ordered import ORDERED

_ORDERED = (ORDERED,)


@mutant(features=_ORDERED)
def a_record_behind_an_outstanding_one_is_called() -> Mutation:
    return OrderedRetries, "_may_call", lambda self, name, origin: True


@mutant(features=_ORDERED)
def a_follower_in_a_retry_stage_is_called() -> Mutation:
    place = OrderedRetries._place

    def placed(self: OrderedRetries, entry: Entry, now: float) -> bool:
        found = place_of(entry, self._main)
        known = None if found is None else self._view.entry(found[1])
        if found is not None and known is not None and known.version == found[2] and found[0] not in self._active:
            self._active[found[0]] = entry, found[1]
            return True
        return place(self, entry, now)

    return OrderedRetries, "_place", placed


@mutant("crash", features=_ORDERED)
def a_key_is_free_before_its_entry_is_removed() -> Mutation:
    return OrderedRetries, "done", lambda self, entry: self._close(entry)


@mutant("crash", "writes lost", features=_ORDERED)
def a_copy_that_is_older_than_its_entry_is_dropped() -> Mutation:
    return OrderSteps, "rewrite", lambda self, entry, name, origin, known: self._moves._close(entry)


@mutant("crash", "commits lost", features=_ORDERED, first=40)
def a_copy_whose_record_is_done_is_called() -> Mutation:
    place = OrderedRetries._place

    def placed(self: OrderedRetries, entry: Entry, now: float) -> bool:
        found = place_of(entry, self._main)
        if found is not None and found[2] < self._view.position and self._view.entry(found[1]) is None:
            return True
        return place(self, entry, now)

    return OrderedRetries, "_place", placed


@mutant("crash", "stop", features=_ORDERED)
def calls_begin_before_the_topic_of_keys_is_read() -> Mutation:
    def read_keys(engine: Any, now: Any) -> Iterator[Any]:
        yield from ()

    return procedures, "read_keys", read_keys


@mutant("crash", "writes lost", features=_ORDERED, first=50)
def moves_are_closed_in_any_order() -> Mutation:
    advance = Moves.advance

    def any_order(self: Moves, name: KeyName) -> None:
        queue = self._queues.get(name)
        for move in [each for each in queue or () if each.ended]:
            assert queue is not None
            queue.remove(move)
            queue.appendleft(move)
        advance(self, name)

    return Moves, "advance", any_order


@mutant("crash", "writes", features=_ORDERED)
def a_copy_is_written_before_its_entry_was_read() -> Mutation:
    advance = Moves.advance

    def early(self: Moves, name: KeyName) -> None:
        for move in self._queues.get(name, ()):
            if move.acked and move.version is None:
                move.version = 0
                self._waiting -= 1
        advance(self, name)

    return Moves, "advance", early


@mutant(features=_ORDERED)
def a_failed_record_counts_as_moved_before_its_copy_is_written() -> Mutation:
    written = Moves.written

    def early(self: Moves, forward: Any) -> KeyName | None:
        move = self._of.get(forward.entry)
        if move is not None and not move.begun and move.entered is not None:
            move.steps.clear()
            move.begun = move.ended = True
            self.advance(move.name)
            return move.name
        return written(self, forward)

    return Moves, "written", early


@mutant("crash", features=_ORDERED)
def an_entry_is_removed_before_the_dead_letter_is_written() -> Mutation:
    init = Move.__init__

    def reversed_(self: Move, entry: Entry, name: KeyName, origin: Origin, steps: list[ForwardedCopy]) -> None:
        removes = len(steps) == 2 and getattr(steps[-1], "entry", 0) is None
        init(self, entry, name, origin, steps[::-1] if removes else steps)

    return Move, "__init__", reversed_


@mutant(features=_ORDERED, first=30)
def a_key_does_not_wait_for_what_its_call_produced() -> Mutation:
    return Holds, "hold", lambda self, entry: None


@mutant(features=_ORDERED)
def the_last_outstanding_record_of_a_key_is_the_first() -> Mutation:
    def head(self: KeyOrder, name: KeyName) -> int | None:
        offsets = self._offsets.get(name)
        return offsets[-1] if offsets else None

    return KeyOrder, "head", head


@mutant(features=_ORDERED)
def attempts_of_followers_count() -> Mutation:
    behind = OrderSteps.behind

    def counted(self: OrderSteps, entry: Entry, name: KeyName, origin: Origin, leader: OrderEntry, now: float) -> None:
        behind(self, entry, name, origin, leader, now)
        step = self._moves._of[entry].steps[-1]
        step.entry = OrderEntry(name[1], step.entry.stage, step.entry.due, step.entry.attempts + 9)  # type: ignore[attr-defined]

    return OrderSteps, "behind", counted


@mutant("crash", features=(ORDERED, KILLS))
def a_record_that_is_called_alone_overtakes_others_of_its_key() -> Mutation:
    return Suspects, "_admitted", lambda self, assignment, now: True

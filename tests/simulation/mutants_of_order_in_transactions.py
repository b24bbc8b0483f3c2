"""Ways to break the order through retries of tasks with `exactly_once`: one for each step that transactions change."""

from __future__ import annotations

from collections.abc import Sequence

from flux.core.engine.forwarding import Forward
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.order_moves import Moves
from flux.core.engine.order_places import Holds, Place
from flux.core.engine.order_steps import OrderSteps
from flux.core.engine.ordered_retries import OrderedRetries
from flux.core.engine.slices import Entry
from simulation.features import EXACTLY_ONCE
from simulation.mutants import Mutation, mutant
from simulation.ordered import ORDERED

_EXACT = (ORDERED, EXACTLY_ONCE)


@mutant(features=_EXACT)
def outputs_are_committed_without_the_removal_of_their_entry() -> Mutation:
    return OrderedRetries, "removal", lambda self, entry: None


@mutant("crash in a transaction", "crash", features=_EXACT, first=60)
def an_offset_is_committed_with_its_entry_before_its_copy() -> Mutation:
    def sealed(self: Moves, forwards: Sequence[Forward]) -> tuple[list[Forward], list[Forward]]:
        return list(forwards), []

    return Moves, "sealed", sealed


@mutant("crash in a transaction", "crash", features=_EXACT, first=100)
def a_dead_letter_is_committed_before_the_removal_of_its_entry() -> Mutation:
    failed = OrderSteps.failed

    def apart(
        self: OrderSteps, entry: Entry, place: Place, forwarded_copy: ForwardedCopy, known: object, now: float
    ) -> None:
        failed(self, entry, place, forwarded_copy, known, now)  # type: ignore[arg-type]
        removal, forwarded_copy.companion = forwarded_copy.companion, None
        if removal is not None:
            self._moves._of[entry].steps.append(removal)

    return OrderSteps, "failed", apart


@mutant(features=_EXACT)
def a_key_does_not_wait_for_the_transaction_of_what_its_call_produced() -> Mutation:
    return Holds, "hold", lambda self, entry: None

"""Ways to break dead letters that hold their key."""

from __future__ import annotations

from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.key_order import KeyName, KeyOrder, OrderEntry
from flux.core.engine.order_places import Place
from flux.core.engine.order_steps import OrderSteps
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import SKIPPED
from flux.core.message import Message
from flux.core.ports import ProducerRecord
from flux.operate.dlq import reject, replay
from flux.operate.dlq.replay import _with_version
from simulation.holding import HOLDING
from simulation.mutants import Mutation, mutant

_HOLDING = (HOLDING,)


@mutant(features=_HOLDING)
def a_dead_letter_frees_its_key_when_it_is_written() -> Mutation:
    failed = OrderSteps.failed

    def freeing(
        self: OrderSteps, entry: Entry, place: Place, copy: ForwardedCopy, known: OrderEntry | None, now: float
    ) -> None:
        reason, copy.reason = copy.reason, SKIPPED.reason
        failed(self, entry, place, copy, known, now)
        copy.reason = reason

    return OrderSteps, "failed", freeing


@mutant(features=_HOLDING)
def a_later_record_comes_before_a_dead_letter() -> Mutation:
    def head(self: KeyOrder, name: KeyName) -> int | None:
        offsets = self._offsets.get(name, ())
        living = (offset for offset in offsets if not self._entries[name[0], offset].dead)
        return next(living, offsets[0] if offsets else None)

    return KeyOrder, "head", head


@mutant(features=_HOLDING)
def a_dead_letter_is_written_before_its_entry() -> Mutation:
    failed = OrderSteps.failed

    def reversed_(
        self: OrderSteps, entry: Entry, place: Place, copy: ForwardedCopy, known: OrderEntry | None, now: float
    ) -> None:
        failed(self, entry, place, copy, known, now)
        move = self._moves._of[entry]
        if move.entered is not None and move.entered.dead:
            move.begun = True
            move.steps.rotate()

    return OrderSteps, "failed", reversed_


@mutant(features=_HOLDING)
def a_rejected_dead_letter_goes_on_holding_its_key() -> Mutation:
    return reject, "free", lambda *_: None


@mutant("writes lost", "crash", features=_HOLDING)
def a_rejection_frees_a_record_whose_newer_copy_is_on_its_way() -> Mutation:
    def held_by(view: KeyOrder | None, dead_letter: Message) -> OrderEntry | None:
        return None if view is None else view.entry(dead_letter.origin[1:])

    return reject, "held_by", held_by


@mutant("writes lost", features=_HOLDING)
def a_replayed_copy_has_the_version_of_its_dead_letter() -> Mutation:
    def old(copy: ProducerRecord, version: int | None) -> ProducerRecord:
        return copy if version is not None else _with_version(copy, None)

    return replay, "_with_version", old


@mutant(features=_HOLDING)
def a_replay_of_what_was_rejected_is_taken_for_one_of_what_is_done() -> Mutation:
    def of_done(copy: ProducerRecord, version: int | None) -> ProducerRecord:
        return copy if version is None else _with_version(copy, version)

    return replay, "_with_version", of_done


@mutant(features=_HOLDING)
def a_replayed_dead_letter_has_no_place_in_the_order() -> Mutation:
    return replay, "_with_version", lambda copy, version: _with_version(copy, None)

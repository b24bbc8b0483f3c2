"""The writes of each move of `retry_order`: of a record that failed, that is done, that follows another one, and of one
whose newer copy may be missing.
"""

from __future__ import annotations

from flux.core.engine.common import Common
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.key_order import KeyName, OrderEntry, Origin
from flux.core.engine.order_moves import Move, Moves
from flux.core.engine.order_places import Place
from flux.core.engine.order_writes import entry_write, following_copy
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import SKIPPED
from flux.core.message import Message
from flux.core.ports import ProducerRecord
from flux.core.stage import Role, Stage

_BEHIND_DEAD = 30.0, 3600.0
"""Seconds, at least and at most, for followers of a dead letter: it may be freed at any time, and retention must not
delete them."""
_BEHIND_DUE = 1.0, 60.0
"""The same, for followers of a record that is due, and makes no progress."""


class OrderSteps:
    """Of one stage."""

    __slots__ = ("_common", "_moves", "_stages")

    def __init__(self, common: Common, moves: Moves) -> None:
        self._common = common
        self._moves = moves
        self._stages = common.policy.stages

    def failed(
        self, entry: Entry, place: Place, forwarded_copy: ForwardedCopy, known: OrderEntry | None, now: float
    ) -> None:
        """`known`: the record's entry; None: it has none yet."""
        name, origin, _ = place
        message, target = forwarded_copy.message, forwarded_copy.target
        dead = target.role is Role.DEAD
        steps: list[ForwardedCopy] = [forwarded_copy]
        holds = self._common.policy.on_dead == "hold" and forwarded_copy.reason != SKIPPED.reason
        if not dead or holds:
            due = self._common.wall_ms(now) + round(forwarded_copy.wait * 1000)
            attempts = message.flux_headers.attempts + forwarded_copy.called
            new = OrderEntry(name[1], target.number, due, attempts, dead)
            steps.insert(0, self._entry_write(message, origin, new))
        elif known is not None and self._common.policy.exactly_once:
            forwarded_copy.companion = self._entry_write(message, origin, None)
        elif known is not None:
            steps.append(self._entry_write(message, origin, None))
        self._moves.add(Move(entry, name, origin, steps))

    def removal(self, entry: Entry, origin: Origin) -> tuple[str, ProducerRecord]:
        """What removes the entry of a record that is done in a retry stage, with its topic."""
        removal = self._entry_write(entry.message, origin, None)
        return removal.target.topic, removal.producer_record(0, None)

    def done(self, entry: Entry, place: Place) -> None:
        name, origin, _ = place
        self._moves.add(Move(entry, name, origin, [self._entry_write(entry.message, origin, None)]))

    def behind(self, entry: Entry, name: KeyName, origin: Origin, leader: OrderEntry, now: float) -> None:
        """It goes to the stage of `leader`, and is due with it."""
        target, now_ms = self.stage_of(leader), self._common.wall_ms(now)
        due, follows = leader.due, True
        if leader.dead or leader.follows or due <= now_ms:  # not before a decision, or any moment
            due = now_ms
            if leader.dead or target.number == self._common.stage.number:
                wait = self._common.due_times.wait(target, None, entry.assignment.jitter)
                least, most = _BEHIND_DEAD if leader.dead else _BEHIND_DUE
                due += round(max(least, min(wait, most)) * 1000)
                follows = leader.dead
        message = entry.message
        new = OrderEntry(name[1], target.number, due, message.flux_headers.attempts, follows=follows)
        copy = following_copy(message, target, self._stages.group, new, (due - now_ms) / 1000)
        self._moves.add(Move(entry, name, origin, [self._entry_write(message, origin, new), copy]))

    def rewrite(self, entry: Entry, name: KeyName, origin: Origin, known: OrderEntry) -> None:
        """A newer copy was announced than this one, and may not have been written."""
        target = self._stages[self._stages.dead] if known.dead else self.stage_of(known)
        copy = following_copy(entry.message, target, self._stages.group, known, 0.0)
        copy.order = known.version
        self._moves.add(Move(entry, name, origin, [copy]))

    def stage_of(self, leader: OrderEntry) -> Stage:
        """The stage in which a record waits for `leader`: the last retry stage for a dead letter."""
        return self._stages[max(1, min(leader.stage, self._stages.retries))]

    def _entry_write(self, message: Message, origin: Origin, entry: OrderEntry | None) -> ForwardedCopy:
        return entry_write(message, self._stages.keys_topic, origin, entry)

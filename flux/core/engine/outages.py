"""Whether a call failed by an outage, of all calls or of one name, which is not its record's fault.

An outage of one name pauses the calls for it alone: its records wait as those at any limit by name do. What does not
fit into memory meanwhile moves to the first retry topic, without an attempt, so that it keeps no other from its turn.
"""

from __future__ import annotations

from collections.abc import Iterable

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.common import Common
from flux.core.engine.dispatch import Dispatch
from flux.core.engine.forwards import Failure
from flux.core.engine.retries import Retries
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import NEXT, TOMBSTONE, UNDECODABLE, Move
from flux.core.message import Message
from flux.core.stage import Role

JITTERS = 29.0
"""Largest random part of an assignment."""


class Outages:
    """Of one stage."""

    __slots__ = ("_common", "_dispatch", "_moves", "_retries")

    def __init__(self, common: Common, dispatch: Dispatch, retries: Retries) -> None:
        self._common = common
        self._dispatch = dispatch
        self._retries = retries
        following = common.policy.stages.after(common.stage)
        limits = common.call_limits
        main = common.stage.role is Role.MAIN
        self._moves = limits.breakers is not None and main and following is not None and following.role is Role.RETRY
        """Whether records of a paused name may move on."""

    def found(self, run: Run, index: int, message: Message, failure: Failure, now: float) -> Move | None:
        """Call `index` of a run raised. Returns Move.PAUSE for an outage, Move.HOLD for one of a name, whose calls are
        then paused, Move.STOP if the process has failed; None if the record has."""
        verdict, limits, held_back = self._retries.verdict(failure), self._common.call_limits, self._common.held_back
        if verdict.move is Move.STOP:
            return Move.STOP
        called = verdict.attempted and verdict is not TOMBSTONE
        if limits.breakers is not None and held_back is not None and run.entries is not None:
            entry = run.entries[index]
            if not called or verdict is UNDECODABLE:
                held_back.ended(entry, called=False)
            else:
                name = held_back.names(entry)[limits.by_name.index(limits.breakers)]
                move = None if name is None else self._found_by_name(name, run, entry, failure, now)
                if move is not None:
                    return move
        if verdict.move is Move.PAUSE:
            return Move.PAUSE
        if called and limits.is_outage(run, message, failure.error, now, self._dispatch.settle_all):
            return Move.PAUSE
        return None

    def _found_by_name(self, name: str, run: Run, entry: Entry, failure: Failure, now: float) -> Move | None:
        breakers, verdict = self._common.call_limits.breakers, self._retries.verdict(failure)
        assert breakers is not None
        self._dispatch.settle_all()
        pauses, record = verdict.move is Move.PAUSE, entry.message.delivery_id
        if not (breakers.counts(name) if pauses else breakers.is_outage(name, entry, record, failure.error, now)):
            return None
        seconds, drawn = verdict.after if pauses else None, entry.assignment.jitter / JITTERS
        news = breakers.pause(name, entry, failure.error, seconds, drawn, now)
        if news is not None:
            self._common.log_events.append(LogEvent.of_name(Level.WARNING, news))
        return Move.HOLD

    def relieve(self, assignments: Iterable[Assignment], now: float) -> None:
        """Moves records of paused names on, of partitions that are full of records; and forgets names without
        records."""
        breakers, held_back = self._common.call_limits.breakers, self._common.held_back
        if breakers is None or held_back is None:
            return
        for news in breakers.forget(now):
            self._common.log_events.append(LogEvent.of_name(Level.INFO, news))
        if not self._moves:
            return
        full = [a for a in assignments if a.phase is Phase.WORKING and not self._dispatch.work.may_split(a)]
        for name, breaker in breakers.paused.items() if full else ():
            error = breaker.error
            if error is None or self._retries.forwards.pressing:
                return
            for entry in held_back.take_name(breakers, name, full):
                entry.assignment.in_flight += 1
                self._common.key_queues.end(entry)
                self._retries.move_on(entry, NEXT, Failure(error), now)

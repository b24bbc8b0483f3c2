"""Where a failed record goes: its next stage or the dead letters, why, and how long it waits there."""

from __future__ import annotations

from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.common import Common
from flux.core.engine.expiry import expires
from flux.core.engine.forwards import Failure, ForwardedCopy, describe
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import EXPIRED, Move, Verdict
from flux.core.stage import Role, Stage

_DEAD, _NEXT = Role.DEAD, Move.NEXT  # an enum attribute costs more than a global


class NextStage:
    """Of the failed records of one stage."""

    __slots__ = ("_common", "_dead", "following")

    def __init__(self, common: Common) -> None:
        stages = common.policy.stages
        self._common = common
        self.following = stages.after(common.stage)
        """None: dead letters stay."""
        self._dead = stages[stages.dead]

    def stays(self, entry: Entry, failure: Failure) -> LogEvent:
        """A dead letter has failed once more."""
        kind, text, _ = failure.description or describe(failure, self._common.policy.error_headers)
        line = f"{entry.message!r} failed once more ({f'{kind}: {text}' if text else kind}) and stays a dead letter"
        return LogEvent(Level.INFO, line, entry.message)

    def copy(
        self,
        entry: Entry,
        following: Stage,
        verdict: Verdict,
        failure: Failure,
        now: float,
        called: bool,
        ordered: bool,
    ) -> ForwardedCopy:
        """The forwarded copy of a failed record. `called`: whether the call that its message counts was made.
        `ordered`: it takes part in the order of its key, and may have followed another record to a later stage than it
        was tried for."""
        message, common = entry.message, self._common
        policy = common.policy
        kind, text, trace = failure.description or describe(failure, policy.error_headers)
        tried = verdict.move is _NEXT
        if ordered:
            following = policy.stages.after_attempts(message.attempt)
        target = following if tried else self._dead
        wait = common.due_times.wait(target, verdict.after, entry.assignment.jitter)
        reason = "exhausted" if tried and target.role is _DEAD else verdict.reason
        if target.role is not _DEAD and expires(message, policy.give_up_after, common.epoch + now + wait):
            target, reason, wait = self._dead, EXPIRED.reason, 0.0
        called = called and verdict.attempted
        group, failed_at = policy.stages.group, common.wall_ms(now)
        return ForwardedCopy(message, target, reason, wait, group, failed_at, kind, text, trace, called)

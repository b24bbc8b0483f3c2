"""What happens to records whose calls failed: retried in place, forwarded to the next stage, or done.

A record is open from the end of its call until it is done: while it waits for a retry in place, is being forwarded, or
waits for the acknowledgement of what its call produced.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.common import Common
from flux.core.engine.expiry import expires
from flux.core.engine.forwarding import MOST_IN_TRANSACTION, MOST_OPEN, Forward, Forwards, ForwardState, not_written
from flux.core.engine.forwards import Failure
from flux.core.engine.in_place import InPlace, WaitingInPlace
from flux.core.engine.next_stage import NextStage
from flux.core.engine.ordered_retries import OrderedRetries
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import TOMBSTONE, UNDECODABLE, Move, Verdict
from flux.core.errors import BrokerError
from flux.core.limits.unacknowledged import Unacknowledged
from flux.core.message import Message
from flux.core.stage import Role

_DEAD = Role.DEAD  # an enum attribute costs more than a global


class Retries:
    """Of one stage. `cut`: ends the runs of a partition after their current calls, because one of its records must hold
    back its key. `hold_alone`: puts back a record that is to be called alone."""

    __slots__ = (
        "_common", "_cut", "_failures", "_next_stage",
        "forwards", "in_place", "order", "unacknowledged", "unforwarded",
    )  # fmt: skip

    def __init__(self, common: Common, cut: Callable[[Assignment], None], hold_alone: Callable[[Entry], None]) -> None:
        self._common, self._cut = common, cut
        self._next_stage = NextStage(common)
        self._failures: list[tuple[Message, Failure, Move]] = []
        self.unacknowledged = Unacknowledged()
        self.in_place = InPlace()
        self.forwards = Forwards(MOST_IN_TRANSACTION if common.policy.exactly_once else MOST_OPEN)
        view = common.key_order
        self.order = None if view is None else OrderedRetries(common, view, self.forwards, self._close, hold_alone)
        self.unforwarded: list[Forward] = []
        """Forwards that were not acknowledged when the stage left."""

    # ---- calls

    def verdict(self, failure: Failure) -> Verdict:
        """What a failure means; decided once."""
        verdict = failure.verdict
        if verdict is None:
            verdict = failure.verdict = self._common.policy.rules.verdict(failure.error)
        return verdict

    def fail(self, run: Run, entry: Entry, failure: Failure, now: float) -> Move:
        """A record that was taken out of its run failed."""
        self.in_place.called.pop(entry, None)
        verdict = self.verdict(failure)
        run.refused += not verdict.attempted or verdict is UNDECODABLE or verdict is TOMBSTONE
        self._common.stats.failed += 1
        if entry.assignment.phase is Phase.GONE:
            return verdict.move
        entry.assignment.open[entry] = None
        return self._retry_or_forward(entry, verdict, failure, now)

    def noted(self, run: Run, entry: Entry, failure: Failure) -> None:
        """As `fail`, for a failure that was found when its run was accounted for."""
        self._failures.append((entry.message, failure, self.fail(run, entry, failure, failure.at)))

    @property
    def news(self) -> bool:
        """Whether `failures` would return any."""
        return bool(self._failures)

    def failures(self) -> list[tuple[Message, Failure, Move]]:
        """Takes the failures that were found when runs were accounted for, with what happens to their records."""
        failures, self._failures = self._failures, []
        return failures

    def produced(self, entry: Entry) -> Entry | None:
        """A call returned, and what it produced is not acknowledged yet: report `settled` later. Returns None if its
        partition is gone, and no report is needed."""
        self.in_place.called.pop(entry, None)
        self._common.call_limits.failure_count.succeeded(1)
        if entry.assignment.phase is Phase.GONE:
            return None
        entry.assignment.open[entry] = None
        if not self._common.policy.exactly_once:
            self.unacknowledged.add(entry)
        if self.order is not None:
            self._cut(entry.assignment)
            self.order.holds.hold(entry)
        return entry

    def settled(self, entry: Entry, failure: Failure | None, now: float) -> Move | None:
        """What the call of `entry` produced was acknowledged, or not delivered (`failure`). Returns what happens to a
        failed record, unless its partition is gone."""
        self.unacknowledged.ended(entry)
        if entry not in entry.assignment.open:
            return None
        move = self._settle(entry, failure, now)
        if self.order is not None:
            self.order.holds.release(entry)
        return move

    def _settle(self, entry: Entry, failure: Failure | None, now: float) -> Move | None:
        if failure is None:
            (self._close if self.order is None else self.order.done)(entry)
            self._common.stats.done += 1
            return None
        verdict = self.verdict(failure)
        if verdict.move is Move.PAUSE:
            entry.assignment.open.pop(entry)
            if self._common.begins(entry.assignment):
                entry.message.value = entry.message.raw_value
                self._common.key_queues.add_first(entry)
        elif verdict.move is not Move.STOP:
            self._common.stats.failed += 1
            return self._retry_or_forward(entry, verdict, failure, now)
        return verdict.move

    def aborted(self, run: Run) -> None:
        """The process failed in a call of this run."""
        for entry in run.entries or ():
            self.in_place.called.pop(entry, None)

    # ---- retries in place

    def _retry_or_forward(self, entry: Entry, verdict: Verdict, failure: Failure, now: float) -> Move:
        """An open record failed: it is retried in place, or forwarded."""
        policy, key_queues = self._common.policy, self._common.key_queues
        wait = policy.in_place_wait * 2**entry.tries
        if (
            not policy.holds_key(verdict)
            or entry.tries >= policy.in_place_retries
            or not self._common.begins(entry.assignment)
            or entry.assignment.crashes.careful
            or expires(entry.message, policy.give_up_after, self._common.epoch + now + wait)
        ):
            self._forward(entry, verdict, failure, now)
            return verdict.move
        entry.tries += 1
        entry.waits = True
        if policy.ordering != "none":
            # a running slice may have more records of the key; once those are entries, others may run beside it
            self._cut(entry.assignment)
        key_queues.hold(entry)
        self.in_place.add(WaitingInPlace(entry, verdict, failure, now), now + wait)
        return Move.AGAIN

    def readmit_due(self, now: float) -> None:
        """Makes the records whose wait is over ready for their next call."""
        while (waiting := self.in_place.due(now)) is not None:
            self._readmit(waiting)

    def paused(self) -> None:
        """Retries in place wait for the end of the pause instead."""
        for waiting in self.in_place.take():
            self._readmit(waiting)

    def _readmit(self, waiting: WaitingInPlace) -> None:
        """Makes a record that has waited the first of its key queue."""
        entry, key_queues = waiting.entry, self._common.key_queues
        entry.waits = False
        entry.message = entry.message.again(self._common.wall_ms(waiting.failed_at))
        self.in_place.called[entry] = waiting
        entry.assignment.open.pop(entry, None)
        key_queues.add_first(entry)
        key_queues.release(entry)

    def end_in_place(self, begun: Container[Entry], assignment: Assignment | None = None) -> None:
        """Forwards the records that wait for a retry in place, or for its caller, because there is no time for it.
        `begun`: entries that callers have taken."""
        for waiting in self.in_place.take(assignment):
            waiting.entry.waits = False
            self._common.key_queues.release(waiting.entry)
            self._forward(waiting.entry, waiting.verdict, waiting.failure, waiting.failed_at)
        for waiting in self.in_place.take_readmitted(assignment):
            entry = waiting.entry
            if entry not in begun and not entry.done:
                self.move_on(entry, waiting.verdict, waiting.failure, waiting.failed_at)

    # ---- forwards

    def move_on(self, entry: Entry, verdict: Verdict, failure: Failure, now: float) -> None:
        """Forwards a record that was not called."""
        entry.assignment.open[entry] = None
        self._forward(entry, verdict, failure, now, called=False)

    def _forward(self, entry: Entry, verdict: Verdict, failure: Failure, now: float, called: bool = True) -> None:
        """Forwards an open record to the next stage, or to the dead letters. `called`: whether the call that its
        message counts was made."""
        common, following = self._common, self._next_stage.following
        if following is None:
            self._close(entry)
            common.log_events.append(self._next_stage.stays(entry, failure))
            return
        ordered = self.order is not None and self.order.takes(entry)
        forwarded_copy = self._next_stage.copy(entry, following, verdict, failure, now, called, ordered)
        if ordered and self.order is not None:
            self._cut(entry.assignment)
            self.order.failed(entry, forwarded_copy, now)
            return
        self.forwards.add(Forward(entry, forwarded_copy, forwarded_copy.size))
        common.commits.done += common.policy.exactly_once

    def written(self, forward: Forward, now: float) -> bool:
        """As `all_written`, for one forward. Returns whether it counts."""
        return bool(self.all_written((forward,), now))

    def all_written(self, forwards: Iterable[Forward], now: float) -> list[Forward]:
        """All in-sync replicas have acknowledged these forwards. Returns those that count: a partition may be gone."""
        common = self._common
        counted: list[Forward] = []
        closed: list[Entry] = []
        dead = 0
        for forward in forwards:
            self.forwards.written(forward)
            if forward.entry not in forward.entry.assignment.open:
                continue
            if forward.kept:
                common.key_queues.release(forward.entry)
            if self.order is None or not self.order.written(forward, now):
                closed.append(forward.entry)
            elif not forward.forwarded_copy.group or not forward.forwarded_copy.reason:
                continue  # it moved no record that has failed
            dead += forward.forwarded_copy.target.role is _DEAD
            counted.append(forward)
        self._close_all(closed)
        common.stats.dead += dead
        common.stats.retried += len(counted) - dead
        return counted

    def all_settled(self, entries: Iterable[Entry]) -> None:
        """As `settled` without a failure, for many entries."""
        those = [entry for entry in entries if entry in entry.assignment.open]
        self._close_all(those)
        if self.order is not None:
            self.order.holds.release_all(those)
        self._common.stats.done += len(those)

    def unwritten(self, forward: Forward, error: BrokerError, now: float) -> None:
        """The write of a forward failed."""
        log_event = self.forwards.unwritten(forward, error, now)
        if log_event is not None:
            self._common.log_events.append(log_event)
        assignment = forward.entry.assignment
        if forward.state is ForwardState.KEPT and not forward.kept and assignment.phase is Phase.WORKING:
            forward.kept = True
            self._cut(assignment)
            self._common.key_queues.hold(forward.entry)

    def left_group(self) -> None:
        """The stage has left its group: records whose forwards are not acknowledged will be called again."""
        self.unforwarded = self.forwards.moving_all()
        if self.unforwarded:
            self._common.log_events.append(not_written(self.unforwarded))

    # ---- open records

    def _close(self, entry: Entry) -> None:
        """An open record is done."""
        assignment = entry.assignment
        assignment.open.pop(entry, None)
        assert assignment.offset_tracker is not None
        assignment.offset_tracker.done(entry.offset, entry.end)
        self._common.commits.done += 1
        self._common.key_queues.retry_aside()

    def _close_all(self, entries: Sequence[Entry]) -> None:
        """Open records are done."""
        ranges: dict[Assignment, list[tuple[int, int]]] = {}
        for entry in entries:
            assignment = entry.assignment
            del assignment.open[entry]
            ranges.setdefault(assignment, []).append((entry.offset, entry.end))
        for assignment, done in ranges.items():
            assert assignment.offset_tracker is not None
            done.sort()
            assignment.offset_tracker.all_done(done)
        if entries:
            self._common.commits.done += len(entries)
            self._common.key_queues.retry_aside()

    def in_flight(self, entry: Entry) -> bool:
        """Whether an open record waits for an acknowledgement only, so that it is done soon."""
        return self.forwards.moving(entry) or not self.forwards.has(entry)

    def forget(self, assignment: Assignment) -> None:
        """A partition is gone: its open records are discarded."""
        self.in_place.take(assignment)
        self.in_place.take_readmitted(assignment)
        self.forwards.forget(assignment)
        if self.order is not None:
            self.order.forget(assignment)

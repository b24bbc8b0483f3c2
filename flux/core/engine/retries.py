"""What becomes of records whose calls failed: tried in place, forwarded to the next stage, or done.

A record is open from the end of its call until it is done: while it waits to be tried in place, is on its way to the
next stage, or waits for what its call produced.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.commands import Level
from flux.core.engine.common import SHOWN, Common
from flux.core.engine.expiry import expires
from flux.core.engine.forwarding import Forward, Forwards, ForwardState
from flux.core.engine.forwards import Failure, ForwardedCopy, describe
from flux.core.engine.in_place import InPlace, WaitingInPlace
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import EXPIRED, UNDECODABLE, Move, Verdict
from flux.core.errors import BrokerError
from flux.core.message import Message
from flux.core.stage import Role

_COPY_OVERHEAD = 500  # bytes of headers and bookkeeping that an open forwarded copy holds, about

_DEAD, _NEXT = Role.DEAD, Move.NEXT  # an enumeration's attribute costs more than a global


class Retries:
    """Of one stage. `cut`: ends the runs of a partition after the calls that they are in, since a record of it is to
    hold back its key."""

    __slots__ = ("_common", "_cut", "_dead", "_failures", "_following", "forwards", "in_place", "unforwarded")

    def __init__(self, common: Common, cut: Callable[[Assignment], None]) -> None:
        stages = common.policy.stages
        self._common = common
        self._cut = cut
        self._following = stages.after(common.stage)
        self._dead = stages[stages.dead]
        self._failures: list[tuple[Message, Failure, Move]] = []
        self.in_place = InPlace()
        self.forwards = Forwards()
        self.unforwarded: list[Forward] = []
        """Copies that were not acknowledged when the stage left."""

    # ---- calls

    def verdict(self, failure: Failure) -> Verdict:
        """What a failure means, found once."""
        verdict = failure.verdict
        if verdict is None:
            verdict = failure.verdict = self._common.policy.rules.verdict(failure.error)
        return verdict

    def fail(self, run: Run, entry: Entry, failure: Failure, now: float) -> Move:
        """A record that was taken out of its run failed."""
        self.in_place.called.pop(entry, None)
        verdict = self.verdict(failure)
        run.refused += verdict is EXPIRED or verdict is UNDECODABLE
        self._common.stats.failed += 1
        if entry.assignment.phase is Phase.GONE:
            return verdict.move
        entry.assignment.open[entry] = None
        return self._try_again(entry, verdict, failure, now)

    def noted(self, run: Run, entry: Entry, failure: Failure) -> None:
        """The same, found when its run was accounted for."""
        self._failures.append((entry.message, failure, self.fail(run, entry, failure, failure.at)))

    @property
    def news(self) -> bool:
        """Whether `failures` would give any."""
        return bool(self._failures)

    def failures(self) -> list[tuple[Message, Failure, Move]]:
        """Calls that were found failed when their runs were accounted for, with what becomes of their records."""
        failures, self._failures = self._failures, []
        return failures

    def produced(self, entry: Entry) -> Entry | None:
        """A call returned and what it produced is not acknowledged yet: `settled` follows. None: its partition is
        gone, and nobody needs to hear."""
        self.in_place.called.pop(entry, None)
        if entry.assignment.phase is Phase.GONE:
            return None
        entry.assignment.open[entry] = None
        return entry

    def settled(self, entry: Entry, failure: Failure | None, now: float) -> Move | None:
        """What the call of `entry` produced is acknowledged, or failed to be; in that case where the record goes, if
        its partition is still here."""
        if entry not in entry.assignment.open:
            return None
        if failure is None:
            self._close(entry)
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
            return self._try_again(entry, verdict, failure, now)
        return verdict.move

    def aborted(self, run: Run) -> None:
        """The process failed in a call of this run."""
        for entry in run.entries or ():
            self.in_place.called.pop(entry, None)

    # ---- tries in place

    def _try_again(self, entry: Entry, verdict: Verdict, failure: Failure, now: float) -> Move:
        """An open record failed: it is tried again in place, or moves."""
        policy, key_queues = self._common.policy, self._common.key_queues
        wait = policy.in_place_wait * 2**entry.tries
        if (
            not policy.holds_key(verdict)
            or entry.tries >= policy.in_place_retries
            or not self._common.begins(entry.assignment)
            or expires(entry.message, policy.give_up_after, self._common.epoch + now + wait)
        ):
            self._move(entry, verdict, failure, now)
            return verdict.move
        entry.tries += 1
        entry.waits = True
        if policy.ordering != "none":
            # a slice in work may have more of the key; and once entries are in key queues, others may be worked beside
            # it
            self._cut(entry.assignment)
        key_queues.hold(entry)
        self.in_place.add(WaitingInPlace(entry, verdict, failure, now), now + wait)
        return Move.AGAIN

    def readmit_due(self, now: float) -> None:
        """Those that have waited may be tried now."""
        while (waiting := self.in_place.due(now)) is not None:
            self._readmit(waiting)

    def paused(self) -> None:
        """What waits to be tried in place waits for the end of the pause instead."""
        for waiting in self.in_place.take():
            self._readmit(waiting)

    def _readmit(self, waiting: WaitingInPlace) -> None:
        """An open record that waited to be tried in place is the first of its key queue."""
        entry, key_queues = waiting.entry, self._common.key_queues
        entry.waits = False
        entry.message = entry.message.again(self._common.wall_ms(waiting.failed_at))
        self.in_place.called[entry] = waiting
        entry.assignment.open.pop(entry, None)
        key_queues.add_first(entry)
        key_queues.release(entry)

    def end_in_place(self, begun: Container[Entry], assignment: Assignment | None = None) -> None:
        """What waits to be tried in place, or for a caller since, moves on instead, as there is no time for that.
        `begun`: entries that callers have taken."""
        for waiting in self.in_place.take(assignment):
            waiting.entry.waits = False
            self._common.key_queues.release(waiting.entry)
            self._move(waiting.entry, waiting.verdict, waiting.failure, waiting.failed_at)
        for waiting in self.in_place.take_readmitted(assignment):
            entry = waiting.entry
            if entry not in begun and not entry.done:
                entry.assignment.open[entry] = None
                self._move(entry, waiting.verdict, waiting.failure, waiting.failed_at, called=False)

    # ---- what is forwarded

    def _move(self, entry: Entry, verdict: Verdict, failure: Failure, now: float, called: bool = True) -> None:
        """Sends an open record to the next stage, or to the dead letters. `called`: as its message says, which counts
        a call in place when it may begin."""
        message, following, common = entry.message, self._following, self._common
        policy = common.policy
        kind, text, trace = failure.words or describe(failure, policy.error_headers)
        if following is None:
            self._close(entry)
            why = f"{kind}: {text}" if text else kind
            line = f"{message!r} failed once more ({why}) and stays a dead letter"
            common.notices.add(Level.INFO, line, about=message)
            return
        tried = verdict.move is _NEXT
        target = following if tried else self._dead
        wait = common.due_times.wait(target, verdict.after, entry.assignment.jitter)
        reason = "exhausted" if tried and target.role is _DEAD else verdict.reason
        if target.role is not _DEAD and expires(message, policy.give_up_after, common.epoch + now + wait):
            target, reason, wait = self._dead, EXPIRED.reason, 0.0
        called = called and verdict is not EXPIRED
        group, failed_at = policy.stages.group, common.wall_ms(now)
        forwarded_copy = ForwardedCopy(message, target, reason, wait, group, failed_at, kind, text, trace, called)
        size = len(message.raw_value or b"") + len(message.key or b"") + len(trace) + _COPY_OVERHEAD
        self.forwards.add(Forward(entry, forwarded_copy, size))

    def written(self, forward: Forward, now: float) -> bool:
        """`all_written` of one."""
        return bool(self.all_written((forward,), now))

    def all_written(self, forwards: Iterable[Forward], now: float) -> list[Forward]:
        """Forwarded copies are acknowledged by all in-sync replicas. Gives those that count: a partition may be
        gone."""
        common = self._common
        counted: list[Forward] = []
        ranges: dict[Assignment, list[tuple[int, int]]] = {}
        dead = 0
        for forward in forwards:
            self.forwards.written(forward)
            entry = forward.entry
            assignment = entry.assignment
            if entry not in assignment.open:
                continue
            del assignment.open[entry]
            if forward.kept:
                common.key_queues.release(entry)
            ranges.setdefault(assignment, []).append((entry.offset, entry.end))
            dead += forward.forwarded_copy.target.role is _DEAD
            counted.append(forward)
        for assignment, done in ranges.items():
            assert assignment.offset_tracker is not None
            done.sort()
            assignment.offset_tracker.all_done(done)
        if counted:
            common.stats.dead += dead
            common.stats.retried += len(counted) - dead
            common.commits.done += len(counted)
            common.key_queues.retry_aside()
        return counted

    def unwritten(self, forward: Forward, error: BrokerError, now: float) -> None:
        """A forwarded copy's write failed."""
        notice = self.forwards.unwritten(forward, error, now)
        if notice is not None:
            self._common.notices.tell(notice)
        assignment = forward.entry.assignment
        if forward.state is ForwardState.KEPT and not forward.kept and assignment.phase is Phase.WORKING:
            forward.kept = True
            self._cut(assignment)
            self._common.key_queues.hold(forward.entry)

    def left_group(self) -> None:
        """The stage leaves: records whose copies are not acknowledged are called again."""
        self.unforwarded = self.forwards.moving_all()
        if self.unforwarded:
            shown = list(map(str, self.unforwarded[:SHOWN]))
            more = len(self.unforwarded) - len(shown)
            self._common.notices.add(
                Level.ERROR,
                f"not committed, as their copies are not written: {', '.join(shown)}"
                f"{f' and {more} more' if more else ''}: they are called again",
            )

    # ---- open records

    def _close(self, entry: Entry) -> None:
        """An open record is done."""
        assignment = entry.assignment
        assignment.open.pop(entry, None)
        assert assignment.offset_tracker is not None
        assignment.offset_tracker.done(entry.offset, entry.end)
        self._common.commits.done += 1
        self._common.key_queues.retry_aside()

    def in_flight(self, entry: Entry) -> bool:
        """Of an open record: whether its end is near, as it waits for an acknowledgement only."""
        return self.forwards.moving(entry) or not self.forwards.has(entry)

    def forget(self, assignment: Assignment) -> None:
        """A partition is gone, and what of it is open with it."""
        self.in_place.take(assignment)
        self.in_place.take_readmitted(assignment)
        self.forwards.forget(assignment)

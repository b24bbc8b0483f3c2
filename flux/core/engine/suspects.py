"""Records of partitions whose former owners vanished: called in windows, or alone. See `crashes.py`.

Alone means one record at a time: it is named in a commit, then called while nothing else runs in the process, then the
next commit clears it by naming the next one. A process that vanishes in between leaves the name of the record that it
was calling.
"""

from __future__ import annotations

from flux.core.engine.assignment import Assignment
from flux.core.engine.commands import Level
from flux.core.engine.common import Common
from flux.core.engine.crashes import LARGEST_WINDOW
from flux.core.engine.dispatch import Dispatch
from flux.core.engine.forwards import Failure
from flux.core.engine.partitions import Partitions
from flux.core.engine.retries import Retries
from flux.core.engine.runs import OrderedRun, Run
from flux.core.engine.slice_runs import SliceRun, WholeBatchRun
from flux.core.engine.slices import Slice
from flux.core.engine.verdicts import CRASHED, Crashed
from flux.core.stage import Role

_RETRY = 1.0  # seconds until a record is named again after a commit that failed
_LATE = 60.0  # seconds that a record in doubt may be due later than it was for another process


class Suspects:
    """Of one stage."""

    __slots__ = ("_backlogs", "_common", "_dispatch", "_partitions", "_retries", "_retry_at", "_running")

    def __init__(self, common: Common, partitions: Partitions, dispatch: Dispatch, retries: Retries) -> None:
        self._common = common
        self._partitions = partitions
        self._dispatch = dispatch
        self._retries = retries
        self._backlogs = dispatch.work.backlogs
        self._running: dict[Run, Assignment] = {}
        self._retry_at = 0.0

    def noted(self, assignment: Assignment, succeeded: bool, now: float) -> None:
        """The mark of a partition is committed, or could not be. Without it a crash counts once less."""
        crashes = assignment.crashes
        if succeeded:
            crashes.unclear = False
        if crashes.careful:
            if not succeeded:
                crashes.rest()
                self._retry_at = now + _RETRY
        elif crashes.windowed:
            if crashes.waits:
                crashes.waits = False
                self._backlogs.release(assignment, crashes.window)
        elif crashes.opened or crashes.begun is not None:
            crashes.opened = True
            self._backlogs.release(assignment, assignment.backlogged)
        if crashes.opened and not crashes.unclear:
            self._partitions.suspicious.pop(assignment, None)

    def turn(self, admitted: bool, now: float) -> None:
        """The poll loop's next turn: what it commits may let further records be called. `admitted`: the stage may
        start a call."""
        for assignment in self._partitions.suspicious:
            if assignment.crashes.naming and not self._running and not (admitted and self._may_begin(assignment)):
                assignment.crashes.rest()  # other stages may call records that end the process
                self._common.commits.soon(now)
            if not self._common.begins(assignment):
                continue
            if assignment.crashes.careful and self._is_cleared(assignment, now):
                assignment.crashes.cleared(now)
                text = f"{assignment.partition}: no record is in doubt any more; the next ones are called in windows"
                self._common.log_events.add(Level.INFO, text, about=assignment.partition)
                self._common.commits.soon(now)
            if assignment.crashes.windowed:
                self._extend(assignment, now)

    # ---- windows

    def _extend(self, assignment: Assignment, now: float) -> None:
        """Names the next window once callers can take little of the last one."""
        crashes, policy, slow = assignment.crashes, self._common.policy, self._dispatch.dispatch_mode.slow
        ready = self._common.key_queues.ready(now)
        if not assignment.held or assignment.backlog or crashes.waits or ready > policy.concurrency:
            return
        size = max(
            1 if policy.batch is None else policy.batch.most,
            min(crashes.window if slow else 2 * crashes.window, LARGEST_WINDOW),
        )
        offsets = [record.offset() for piece in assignment.held for record in piece.records[:size]][:size]
        crashes.extend(size, max(offsets) + 1)
        self._common.commits.soon(now)

    # ---- alone

    @property
    def calls(self) -> int:
        """Number of records that are called alone now."""
        return len(self._running)

    @property
    def named(self) -> bool:
        """Whether a record is named. Other stages may call none until a commit has withdrawn its name: it would be
        blamed if one of theirs ended the process."""
        return any(assignment.crashes.naming for assignment in self._partitions.suspicious)

    def wanted(self, now: float) -> bool:
        """Whether a record is to be called alone, or was and is still named by the last commit."""
        if not self._partitions.suspicious:
            return False
        return self.unclear() or (not 0 < self._retry_at - now <= _RETRY and self._next() is not None)

    def unclear(self) -> bool:
        """Whether the last commit accuses a record or a process that is not at work, and the next one, which is due,
        clears it. If this process vanished meanwhile, one crash too many would be counted."""
        if self._common.stopping:
            return False
        return any(assignment.crashes.unclear for assignment in self._partitions.suspicious)

    @property
    def available(self) -> bool:
        """Whether `take` would return a run or name a record."""
        assignment = None if self._running or self.unclear() else self._next()
        return assignment is not None and (not assignment.crashes.names(_first(assignment)) or assignment.is_noted)

    def take(self, now: float) -> Run | None:
        """The next run, of one record. None: a record was named, and the commit that says so must end first."""
        assignment = None if self._running or self.unclear() else self._next()
        if assignment is None or not self._admitted(assignment, now):
            return None
        crashes, offset = assignment.crashes, _first(assignment)
        if crashes.kills(offset):
            self._give_up(assignment, now)
        elif not crashes.names(offset):
            crashes.name(offset)
            self._common.commits.soon(now)
        elif assignment.is_noted:
            run = self._run(assignment, self._backlogs.take_held(assignment), now)
            self._running[run] = assignment
            return self._dispatch.start(run, now)
        return None

    def _admitted(self, assignment: Assignment, now: float) -> bool:
        """Whether the order of its key lets the next record be called. Those before it that may not are taken care
        of."""
        order = self._retries.order
        while order is not None and assignment.held:
            piece = assignment.held[0]
            if order.admits(piece.entry(assignment, 0, piece.message(0)), now):
                return self._may_begin(assignment)
            self._backlogs.take_held(assignment)
        return order is None

    def _run(self, assignment: Assignment, piece: Slice, now: float) -> Run:
        order = self._retries.order
        if self._common.policy.batch is not None:
            return WholeBatchRun(assignment, piece, now)
        if order is None or self._common.stage.role is Role.MAIN:
            return SliceRun(assignment, piece, now)
        entry = piece.entry(assignment, 0, piece.message(0))
        self._common.key_queues.begin(entry)
        return OrderedRun([entry], now, order.done)

    def finished(self, run: Run, now: float) -> None:
        """A run has ended, perhaps one of `take`."""
        assignment = self._running.pop(run, None)
        if assignment is not None and assignment.crashes.careful:
            assignment.crashes.called()
            goes_on = self._may_begin(assignment) and self._admitted(assignment, now)
            if goes_on and not assignment.crashes.kills(_first(assignment)):
                assignment.crashes.name(_first(assignment))  # the commit that clears the one names the next one
            self._common.commits.soon(now)

    def aborted(self, run: Run) -> None:
        """The process failed in the run's call, and reports it: the worker ends."""
        self._running.pop(run, None)

    def _next(self) -> Assignment | None:
        """The next partition with a record to call alone. One that is named comes first: if another one were called
        meanwhile, it would be blamed for that."""
        held = self._backlogs.held
        named = [assignment for assignment in held if assignment.crashes.naming]
        return next(filter(self._may_begin, named or held), None)

    def _may_begin(self, assignment: Assignment) -> bool:
        """Whether the partition's next record can be called alone: nothing of it is in flight."""
        return bool(
            assignment.held
            and assignment.crashes.careful
            and self._common.begins(assignment)
            and not (assignment.running or assignment.in_key_queues)
            and not any(map(self._retries.in_flight, assignment.open))
        )

    def _is_cleared(self, assignment: Assignment, now: float) -> bool:
        """Whether nothing is left to be called alone, or cannot be."""
        crashes, offset_tracker = assignment.crashes, assignment.offset_tracker
        if assignment.running or any(map(self._retries.in_flight, assignment.open)):
            return False
        if assignment.in_key_queues:  # its topic refuses a record, or it has found an outage
            return True
        if offset_tracker is None or (crashes.until is not None and offset_tracker.end < crashes.until):
            return False
        order = self._retries.order
        waits = assignment.waiting or (order is not None and order.parked.has_any(assignment))
        if waits and (crashes.begun is None or 0 <= now - crashes.begun < _LATE):
            return False
        return not any(crashes.doubts(record.offset()) for piece in assignment.held for record in piece.records)

    def _give_up(self, assignment: Assignment, now: float) -> None:
        """The next record is dead."""
        piece = self._backlogs.take_held(assignment)
        entry = piece.entry(assignment, 0, piece.message(0))
        count = assignment.crashes.crashes
        why = f"{count} processes in a row vanished, the last one while it called nothing but this record"
        failure = Failure(Crashed(why), verdict=CRASHED, at=now)
        self._retries.noted(SliceRun(assignment, piece, now), entry, failure)


def _first(assignment: Assignment) -> int:
    return int(assignment.held[0].records[0].offset())

"""Which records may run now, and the runs: started, accounted for, cut and ended."""

from __future__ import annotations

from collections.abc import Callable

from flux.core.engine.assignment import Assignment
from flux.core.engine.common import Common
from flux.core.engine.forwards import Failure
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.order_sifting import sifted, taken
from flux.core.engine.ordered_retries import OrderedRetries
from flux.core.engine.queued_work import QueuedWork
from flux.core.engine.runs import BatchRun, KeyQueueRun, OrderedRun, Run
from flux.core.engine.slice_runs import PartRun, SliceRun, WholeBatchRun
from flux.core.engine.slices import Entry, Slice
from flux.core.limits.dispatch_mode import DispatchMode
from flux.core.message import Message
from flux.core.stage import Role

_FEW = 10
"""If a limit admits fewer calls than this at once, records are handed out one by one."""
SMALL = 5
"""With fewer records, a run that claims their keys costs more than an entry for each."""


class Dispatch:
    """Of one stage. `noted`: called for each failed call when its run is accounted for."""

    __slots__ = ("_common", "_keyed", "_main", "_noted", "_order", "dispatch_mode", "running", "work")

    def __init__(
        self,
        common: Common,
        work: QueuedWork,
        noted: Callable[[Run, Entry, Failure], None],
        order: OrderedRetries | None = None,
    ) -> None:
        policy = common.policy
        self._order = order
        self._common = common
        self._noted = noted
        self._main = common.stage.role is Role.MAIN
        self._keyed = (
            common.key_queues if isinstance(common.key_queues, KeyQueues) and policy.ordering != "partition" else None
        )
        """The key queues, if several runs may process parts of one partition at once."""
        self.work = work
        self.dispatch_mode = DispatchMode()
        self.running: dict[Run, None] = {}
        """The runs that callers are processing."""

    # ---- what may run now

    def take(self, most: int, now: float) -> Run | None:
        """The next run, of no more than `most` calls; None if there is none."""
        policy, work, key_queues = self._common.policy, self.work, self._common.key_queues
        if policy.batch is not None:
            return self._take_batch(policy.batch.most, now)
        chunk = min(self.dispatch_mode.chunk, most)
        if self._common.held_back is not None:
            return self._take_by_name(chunk, now)
        few = self._common.call_limits.limited and most < _FEW
        spread = few or (self.dispatch_mode.slow and policy.concurrency > 1)
        if spread and not self._main:
            work.release_up_to(now, 2 * chunk) if self._keyed is not None else work.split_due(now, 2 * chunk)
        entries = taken(key_queues, self._order, chunk, now)
        while not entries:
            run = self._next_slice(spread, chunk if spread else most, most, now)
            if run is not None:
                return self.start(run, now)
            entries = taken(key_queues, self._order, chunk, now)
            if spread or not (entries or work.release_due(now, self._common.batch)):
                break
        if not entries:
            return None
        if self._order is not None and not self._main:
            return self.start(OrderedRun(entries, now, self._order.done), now)
        return self.start(KeyQueueRun(entries, now), now)

    def _take_by_name(self, most: int, now: float) -> Run | None:
        """As `take`, with limits by name: they look at each record, so all become entries."""
        work, key_queues = self.work, self._common.key_queues
        while True:
            entries = key_queues.take(most, now)
            if entries:
                return self.start(KeyQueueRun(entries, now), now)
            if not (work.split_any() or work.release_due(now, self._common.batch)):
                return None

    def _take_batch(self, most: int, now: float) -> Run | None:
        """The next batch that is full or has waited; entries in key queues come before slices."""
        work, backlogs, key_queues = self.work, self.work.backlogs, self._common.key_queues
        while True:
            self._fill_batches(most)
            entries = key_queues.take(1, now)
            for _ in range(len(backlogs)):
                if entries:
                    break
                assignment = backlogs.next
                alone = not (assignment.in_key_queues or assignment.running)
                if alone and len(assignment.backlog[0]) >= most and self._admits(assignment):
                    piece = self._at_most(assignment, backlogs.take(), most)
                    return self.start(WholeBatchRun(assignment, piece, now), now)
                if work.may_split(assignment):
                    work.split()
                    entries = key_queues.take(1, now)
                    continue
                backlogs.pass_on()
            if entries:
                return self.start(BatchRun(entries, now), now)
            if not work.release_due(now, max(most, self._common.batch)):
                return None

    def _fill_batches(self, most: int) -> None:
        """Puts slices that are smaller than a batch into key queues, up to one batch per partition: a batch may have
        records of several polls."""
        backlogs = self.work.backlogs
        passed = 0
        while passed < len(backlogs):
            assignment = backlogs.next
            if len(assignment.backlog[0]) < most and assignment.in_key_queues < most:
                self.work.split()
                passed = 0
            else:
                backlogs.pass_on()
                passed += 1

    def _next_slice(self, spread: bool, chunk: int, most: int, now: float) -> Run | None:
        """A run of a whole slice. If other calls of the partition or the metadata do not allow that, a run of up to
        `chunk` records of it whose keys are free; the other records become entries. `spread`: never a whole slice."""
        work, backlogs = self.work, self.work.backlogs
        for _ in range(len(backlogs)):
            if self._order is not None and not sifted(backlogs, self._order, now):
                return None
            assignment = backlogs.next
            if assignment.in_key_queues or spread:
                if work.may_split(assignment):
                    run = self._part(assignment, chunk, now)
                    if run is not None or self._common.key_queues.ready(now):
                        return run
                    continue
            elif self._admits(assignment):
                return SliceRun(assignment, self._at_most(assignment, backlogs.take(), most), now)
            elif not self._main and not assignment.running:
                # the record that holds back the committed offset may not be due for long: entries may have room
                work.split()
                return None
            backlogs.pass_on()
        return None

    def _part(self, assignment: Assignment, most: int, now: float) -> Run | None:
        """A run of up to `most` records of a partition's next slice, beside other runs of it. None: they became
        entries."""
        backlogs, key_queues = self.work.backlogs, self._keyed
        offset_tracker, piece = assignment.offset_tracker, assignment.backlog[0]
        assert offset_tracker is not None
        small = most < SMALL
        most, others = min(most, len(piece)), assignment.in_flight + len(assignment.open)
        end = piece.after(most - 1) if piece.ends is None else max(piece.ends[:most])
        if key_queues is None or small or not offset_tracker.admits(end, others + most):
            self.work.split()
            return None
        piece = backlogs.take()
        claim = key_queues.claim(assignment, piece, most)
        if claim.stop < len(piece):
            backlogs.give_back(assignment, piece.part(claim.stop))
        if not claim.indices:
            return None
        return PartRun(assignment, piece.picked(claim.indices), claim, key_queues, now)

    def _admits(self, assignment: Assignment) -> bool:
        """Whether the next slice may start: no other run of an ordered partition, and room in the metadata."""
        offset_tracker, piece = assignment.offset_tracker, assignment.backlog[0]
        assert offset_tracker is not None
        if assignment.running and self._common.policy.ordering != "none":
            return False
        others = len(assignment.running) + len(assignment.open)
        if piece.ends is not None:
            return offset_tracker.admits(max(piece.ends), others + len(piece))
        return piece.records[0].offset() <= offset_tracker.committable or offset_tracker.admits(piece.end, others)

    def _at_most(self, assignment: Assignment, piece: Slice, most: int) -> Slice:
        if len(piece) <= most:
            return piece
        self.work.give_back(assignment, piece.part(most))
        return piece.part(0, most)

    # ---- runs

    def start(self, run: Run, now: float) -> Run:
        if self._common.call_limits.limited:
            self._common.call_limits.started(run, 1 if self._common.policy.batch is not None else run.limit, now)
        self.running[run] = None
        for assignment in run.assignments():
            assignment.running[run] = None
        return run

    def finished(self, run: Run, now: float) -> None:
        """The caller has made all calls of its run."""
        calls = run.index
        self._end(run)
        run.finish(self._common.key_queues)
        self._common.call_limits.ended(run, called=calls > run.refused)
        self.dispatch_mode.took(now - run.started, calls)
        self._common.key_queues.retry_aside()
        if self._order is not None:
            self._order.ended(now)

    def aborted(self, run: Run) -> None:
        """The process failed in the run's current call: the calls before it count, this one never does."""
        self._end(run)
        self._common.call_limits.ended(run, called=False)

    def _end(self, run: Run) -> None:
        self.settle(run)
        self.running.pop(run, None)
        if self._common.held_back is not None:
            for entry in (run.entries or ())[run.marked :]:
                self._common.held_back.ended(entry, called=False)
        for assignment in run.assignments():
            assignment.running.pop(run, None)

    def settle(self, run: Run, index: int | None = None) -> None:
        """Accounts for the calls before `index`; None: all that have ended."""
        done, failed = run.settle(run.index if index is None else index, self._common.key_queues)
        self._common.stats.done += done
        self._common.commits.done += done
        self._common.call_limits.failure_count.succeeded(done)
        for entry, failure in failed:
            self._noted(run, entry, failure)

    def settle_all(self) -> None:
        for run in self.running:
            self.settle(run)

    def checked(self, now: float) -> list[Run]:
        """The watcher's check, about every `CHECK_INTERVAL` seconds while there are runs. If any run is stuck, all are
        cut: each caller keeps its current call, and other callers get the rest. Returns the stuck runs."""
        stuck = self.dispatch_mode.stuck(self.running, now)
        for run in self.running:
            if run.failures:  # the run may take long, and exceptions keep their frames in memory
                self.settle(run)
        if stuck:
            self.cut_all()
        return stuck

    def cut_all(self, assignment: Assignment | None = None) -> None:
        """Cuts the runs with records of a partition, or all: other callers get what was not started."""
        for run in [run for run in self.running if assignment is None or assignment in run.assignments()]:
            self._cut(run)

    def _cut(self, run: Run) -> None:
        index = run.cut()
        self.settle(run, index)
        rest = run.divide(index, self._common.key_queues)
        if rest is not None:
            (assignment,) = run.assignments()
            if self._common.begins(assignment):
                self.work.give_back(assignment, rest)

    def hold_back(self, run: Run, index: int, message: Message) -> None:
        """Discards the run's current call `index`: the record becomes the first of its key queue again."""
        key_queues = self._common.key_queues
        self.settle(run, index)
        self._cut(run)
        entry = run.hold_back(index, message, key_queues)
        if entry is None:
            return
        message.value = message.raw_value
        if self._common.begins(entry.assignment):
            key_queues.give_back([entry])
        else:
            key_queues.end(entry)

    def part(self, run: Run, index: int, message: Message) -> Entry:
        """Takes call `index` out of its run, which continues after it: the record is tracked individually."""
        self.settle(run, index)
        return run.part(index, message, self._common.key_queues)

    @property
    def begun(self) -> set[Entry]:
        """Entries that callers have taken and whose calls are not accounted for."""
        return {entry for run in self.running if run.entries is not None for entry in run.entries[run.marked :]}

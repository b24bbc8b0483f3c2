"""The façade of one stage's state machine: it passes facts to the parts that decide, and returns what to do next.

The path of a record: `polled` puts it into its partition's backlog (main stage) or the delay queue (retry stages).
`take` hands out runs: a whole slice of a backlog while calls are quick, entries of key queues after a run was split.
The caller publishes its progress in the run, and reports other results with `failed` and `produced`, then the end with
`finished`. A failed record becomes a forwarded copy, and `written` completes it. Each partition's offset tracker
computes the offset to commit; `turn` returns the commit and everything else that the poll loop does.

A driver guards an engine with one lock; nothing here waits. `now` is seconds by a monotonic clock, and `epoch` relates
it to the wall clock, which due times refer to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flux.core.engine.assignment import Assignment
from flux.core.engine.commands import Stall, Turn
from flux.core.engine.common import Common
from flux.core.engine.deadlines import Deadlines
from flux.core.engine.dispatch import Dispatch
from flux.core.engine.forwarding import Forward
from flux.core.engine.forwards import Failure
from flux.core.engine.key_order import KeyOrder
from flux.core.engine.outages import Outages
from flux.core.engine.partitions import Partitions
from flux.core.engine.queued_work import QueuedWork
from flux.core.engine.retries import Retries
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.suspects import Suspects
from flux.core.engine.transactions import Transactions
from flux.core.engine.verdicts import Move
from flux.core.limits.call_limits import CallLimits
from flux.core.message import Message
from flux.core.monitoring.stalls import StallDetector, what_holds
from flux.core.policy import Policy
from flux.core.ports import CommittedOffset, PollResult, TopicPartition
from flux.core.stage import Stage


class Engine:
    """`topic_limits`: largest record in bytes by topic, if known. `call_limits`: shared by the task's engines."""

    def __init__(
        self,
        policy: Policy,
        stage: Stage,
        topic_limits: Mapping[str, int] | None = None,
        call_limits: CallLimits | None = None,
        key_order: KeyOrder | None = None,
    ) -> None:
        self.policy = policy
        self.stage = stage
        self.call_limits = CallLimits.of(policy) if call_limits is None else call_limits
        self._watchdog = StallDetector(policy.stalled_after)
        common = self._common = Common(policy, stage, self.call_limits, key_order)
        partitions = self._partitions = Partitions(common, self._drop, lambda *noted: suspects.noted(*noted))
        retries = self._retries = Retries(common, lambda of: dispatch.cut_all(of), lambda entry: work.hold_alone(entry))
        work = self._work = QueuedWork(common, retries.order)
        dispatch = self._dispatch = Dispatch(common, work, retries.noted, retries.order)
        self._outages = Outages(common, dispatch, retries)
        transactions = self.transactions = Transactions(common, partitions, dispatch, retries)
        suspects = self._suspects = Suspects(common, partitions, dispatch, retries)
        deadlines = self._deadlines = Deadlines(common, partitions, dispatch, retries, transactions, suspects)

        # methods that need one part only are that part's, and documented there
        self.assigned = partitions.assigned
        self.revoked, self.lost = partitions.revoked, partitions.lost
        self.reset = partitions.reset
        self.committed = partitions.committed
        self.must_commit, self.commit_abandoned = partitions.must_commit, partitions.commit_abandoned
        self.done_at = partitions.done_at
        self.read_offsets = partitions.read_offsets
        self.committable_offsets = partitions.committable_offsets
        self.uncommitted_progress = partitions.uncommitted_progress
        self.unfinished_offsets = partitions.unfinished_offsets
        self.waiting_offsets = partitions.waiting_offsets
        self.start_offsets = partitions.start_offsets
        self.topic_propagation = partitions.topic_propagation
        self.suspicious = partitions.suspicious
        self.settled, self.unacknowledged = retries.settled, retries.unacknowledged
        self.written, self.unwritten, self.all_written = retries.written, retries.unwritten, retries.all_written
        self.left_group = retries.left_group
        self.failures = retries.failures
        self.order, self.key_order = retries.order, key_order
        self.writes = retries.forwards.take
        self.running, self.checked = dispatch.running, dispatch.checked
        self.dispatch_mode = dispatch.dispatch_mode
        self.ready, self.begins_at = deadlines.ready, deadlines.begins_at
        self.deadline = deadlines.deadline
        self.wants_alone = deadlines.wants_alone
        self.unclear = suspects.unclear
        self.awaits_commit = deadlines.awaits_commit
        self.open = deadlines.open
        self.rests = deadlines.rests
        self.log_events, self.log = common.log_events.take, common.log_events.append
        self.held_back = common.held_back
        self.stats = common.stats
        self.wall_ms = common.wall_ms
        self.limit = dict(topic_limits or {}).get

    def __repr__(self) -> str:
        return f"<Engine {self.stage.topic} {list(self._partitions.assignments.values())}>"

    # ---- facts

    def revoking(self, partitions: Iterable[TopicPartition]) -> None:
        """The partitions will be revoked: no new calls for them. Next: wait for `drained`, commit, `revoked`."""
        for assignment in self._partitions.revoking(partitions):
            self._work.discard(assignment)
            self._dispatch.cut_all(assignment)
            self._retries.end_in_place(self._dispatch.begun, assignment)

    def drained(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether no record of the partitions is in flight: called, being forwarded or waiting for what it produced."""
        return self._partitions.drained(partitions, self._retries.in_flight)

    def polled(self, polled: PollResult, now: float) -> None:
        """A poll has returned."""
        self._partitions.resets.update(polled.out_of_range)
        self._work.delivered(polled.batches, self._partitions.assignments, now)
        self._work.reached(self._partitions.reached(polled.reached), now)

    def finished(self, run: Run, now: float) -> None:
        """The caller has made all calls of its run."""
        self._dispatch.finished(run, now)
        self._suspects.finished(run, now)
        self._retries.in_place.forget_done()

    def aborted(self, run: Run) -> None:
        """The process failed in the run's current call: the calls before it count, this one never does."""
        self._dispatch.aborted(run)
        self._suspects.aborted(run)
        self._retries.aborted(run)

    def failed(self, run: Run, index: int, message: Message, failure: Failure, now: float) -> Move:
        """Call `index` of a run raised. The caller goes on, except after Move.STOP: the process failed, and the record
        stays as it was. After Move.PAUSE call `paused` of the task's engines."""
        if (move := self._outages.found(run, index, message, failure, now)) is None:
            return self._retries.fail(run, self._dispatch.part(run, index, message), failure, now)
        if move is not Move.STOP:
            self._dispatch.hold_back(run, index, message)
        return move

    def produced(self, run: Run, index: int, message: Message) -> Entry | None:
        """Call `index` returned, and what it produced is not acknowledged yet: report `settled` later. Returns None
        if its partition is gone, and no report is needed."""
        return self._retries.produced(self._dispatch.part(run, index, message))

    def paused(self) -> None:
        """The task is paused by an outage: callers end after their current calls, and retries in place wait for the
        end of the pause."""
        self._dispatch.cut_all()
        self._retries.paused()

    def stop(self) -> None:
        """The stage stops: no new calls."""
        self._common.stopping = True
        self._dispatch.cut_all()
        for assignment in self._partitions.assignments.values():
            self._work.discard(assignment)
        self._retries.end_in_place(self._dispatch.begun)

    def _drop(self, assignment: Assignment) -> None:
        """A partition is gone: all parts discard what they hold of it."""
        self._work.discard(assignment)
        self._retries.forget(assignment)
        self._dispatch.cut_all(assignment)

    # ---- commands

    def take(self, polling: bool, now: float) -> Run | None:
        """The next run; None if there is none. `polling`: for the poller, alone while calls are quick."""
        if self._deadlines.blocked or not (polling or self.dispatch_mode.slow):
            return None
        most = self.call_limits.most(now)
        if not most:
            return None
        if self.wants_alone(now):
            return self._suspects.take(now)
        self._retries.readmit_due(now)
        return self._dispatch.take(most, now)

    def turn(self, now: float) -> Turn:
        """What the poll loop does next."""
        assignments, blocked = self._partitions.assignments, self.unacknowledged.blocked
        self._outages.relieve(assignments.values(), now)
        if self.order is not None:
            self.order.turn(assignments.values(), now)
        pause, resume, patient = self._work.pauses(assignments, self.open_forwards > 0, now, blocked)
        self._suspects.turn(self._deadlines.admits(now), now)
        return Turn(
            pause=tuple(pause),
            resume=tuple(resume),
            reset=tuple(self._partitions.resets),
            commit=None if self.policy.exactly_once else self.commit(now),
            transact=self.policy.exactly_once and self.transactions.due(now),
            patient=patient,
            poll=self._deadlines.records_to_poll(patient),
            timeout=self._deadlines.rest(now),
        )

    def commit(
        self, now: float, partitions: Iterable[TopicPartition] | None = None, at_once: bool = False
    ) -> dict[TopicPartition, CommittedOffset] | None:
        """The offsets to commit, if a commit is due (or `at_once`); None if there are none. One commit is in flight at
        a time."""
        if not at_once and not self._common.commits.due(now):
            return None
        self._dispatch.settle_all()
        return self._partitions.commit(now, partitions, at_once)

    # ---- state

    @property
    def stopping(self) -> bool:
        return self._common.stopping

    @property
    def epoch(self) -> float:
        return self._common.epoch

    @epoch.setter
    def epoch(self, epoch: float) -> None:
        self._common.epoch = epoch

    @property
    def empty(self) -> bool:
        """Whether no record is in memory: none in flight, queued or waiting."""
        return self._deadlines.empty

    @property
    def quiet(self) -> bool:
        """Whether no call runs or waits for a commit, and nothing may still be acknowledged."""
        return self._deadlines.quiet

    @property
    def idle(self) -> bool:
        """Whether it is empty and everything done is committed."""
        return self._deadlines.empty and not self._common.commits.open

    @property
    def calls(self) -> int:
        return len(self._dispatch.running)

    def busy_with(self, run: Run) -> bool:
        """Whether the run is running and was not found stuck."""
        return run in self._dispatch.running and run.checks >= 0

    @property
    def left_open(self) -> bool:
        """Whether the stage has left with uncommitted offsets or unacknowledged forwards."""
        return bool(self.uncommitted or self.unforwarded)

    @property
    def uncommitted(self) -> dict[TopicPartition, CommittedOffset]:
        """The offsets that could not be committed at a stop."""
        return self._partitions.uncommitted

    @property
    def unforwarded(self) -> list[Forward]:
        """Forwards that were not acknowledged when the stage left."""
        return self._retries.unforwarded

    @property
    def has_news(self) -> bool:
        """Whether there are failures to log or copies to write, other than in a transaction."""
        return self._retries.news or (self._retries.forwards.queued and not self.policy.exactly_once)

    @property
    def open_forwards(self) -> int:
        """Number of unacknowledged forwards, including those that the next topic refuses."""
        return len(self._retries.forwards)

    @property
    def refused(self) -> list[Forward]:
        """Forwards that the next topic refuses."""
        return self._retries.forwards.refused

    @property
    def waiting(self) -> int:
        """Number of records in memory that are not due yet."""
        return len(self._work.delay_queue)

    @property
    def next_due(self) -> float | None:
        """When the first of them is due, in milliseconds since the epoch."""
        return self._work.delay_queue.next_due

    @property
    def partitions(self) -> list[TopicPartition]:
        return list(self._partitions.assignments)

    def stalled(self, now: float) -> list[Stall]:
        """Partitions with records and without progress for the policy's `stalled_after`, and what they wait for."""
        return [
            what_holds(assignment, standing, self.running, self._retries.forwards, self._common, now)
            for assignment, standing in self._watchdog.stalled(self._partitions.assignments.values(), now)
        ]

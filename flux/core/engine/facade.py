"""The façade of one stage's state machine: it routes facts to the parts that decide, and asks them for what is next.

A record's way: `polled` puts it into its partition's backlog (main stage) or among the delays (retry stages). `take`
hands out runs: a slice of a backlog as it came while calls are quick, entries through key queues once a run was split.
The caller publishes how far it is in the run itself, and reports what is not a plain success: `failed`, `produced`, and
at the end `finished`. A failed record becomes a forwarded copy; `written` ends it. The offset tracker of each partition
says what may be committed; `turn` asks for that and for everything else that the poller does.

A driver guards an engine with one lock; nothing here waits. `now` is seconds by a clock that is never set back, and
`epoch` says where the wall clock stands, by which records are due.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from flux.core.engine.assignment import Assignment, Entry
from flux.core.engine.commands import Stall, Turn
from flux.core.engine.common import Common
from flux.core.engine.deadlines import Deadlines
from flux.core.engine.dispatch import Dispatch
from flux.core.engine.forwarding import Forward
from flux.core.engine.forwards import Failure
from flux.core.engine.partitions import Partitions
from flux.core.engine.queued_work import QueuedWork
from flux.core.engine.retries import Retries
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Move
from flux.core.limits.circuit_breaker import Gate
from flux.core.message import Message
from flux.core.monitoring.stalls import StallDetector, what_holds
from flux.core.policy import Policy
from flux.core.ports import CommittedOffset, PollResult, TopicPartition
from flux.core.stage import Stage


class Engine:
    """`topic_limits`: bytes that a target topic takes in a record, as far as that is known. `gate`: the task's, which
    all of its engines in a process have."""

    def __init__(
        self,
        policy: Policy,
        stage: Stage,
        topic_limits: Mapping[str, int] | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.policy = policy
        self.stage = stage
        self.gate = Gate(policy.rate_limit) if gate is None else gate
        self._watchdog = StallDetector(policy.stalled_after)
        common = self._common = Common(policy, stage, self.gate)
        partitions = self._partitions = Partitions(common, self._drop)
        retries = self._retries = Retries(common, lambda assignment: dispatch.cut_all(assignment))
        work = self._work = QueuedWork(common)
        dispatch = self._dispatch = Dispatch(common, work, retries.noted)
        ahead = self._ahead = Deadlines(common, partitions, dispatch, retries)

        # what one part answers alone is that part's own, and is described there
        self.assigned = partitions.assigned
        self.revoked = partitions.revoked
        self.lost = partitions.lost
        self.reset = partitions.reset
        self.committed = partitions.committed
        self.owed = partitions.owed
        self.gave_up = partitions.gave_up
        self.ends = partitions.ends
        self.positions = partitions.positions
        self.starts = partitions.starts
        self.spread = partitions.spread
        self.settled = retries.settled
        self.written = retries.written
        self.unwritten = retries.unwritten
        self.all_written = retries.all_written
        self.left_behind = retries.left_behind
        self.failures = retries.failures
        self.writes = retries.forwards.take
        self.looked = dispatch.looked
        self.dispatch_mode = dispatch.dispatch_mode
        self.ready = ahead.ready
        self.begins_at = ahead.begins_at
        self.deadline = ahead.deadline
        self.rests = ahead.rests
        self.notices = common.notices.take
        self.tell = common.notices.tell
        self.stats = common.stats
        self.wall_ms = common.wall_ms
        self.limit = dict(topic_limits or {}).get

    def __repr__(self) -> str:
        return f"<Engine {self.stage.topic} {list(self._partitions.assignments.values())}>"

    # ---- facts

    def revoking(self, partitions: Iterable[TopicPartition]) -> None:
        """They will be given up: nothing of them is begun any more; ask `drained`, commit, then `revoked`."""
        for assignment in self._partitions.revoking(partitions):
            self._work.unload(assignment)
            self._dispatch.cut_all(assignment)
            self._retries.end_in_place(self._dispatch.begun, assignment)

    def drained(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether nothing of them is in flight: called, being written, or waiting for what a call produced."""
        return self._partitions.drained(partitions, self._retries.in_flight)

    def polled(self, polled: PollResult, now: float) -> None:
        """A poll brought these."""
        self._partitions.resets.update(polled.out_of_range)
        self._work.delivered(polled.batches, self._partitions.assignments, now)
        self._partitions.reached(polled.reached)

    def finished(self, run: Run, now: float) -> None:
        """The caller has made all calls of a run that are its own."""
        self._dispatch.finished(run, now)
        self._retries.in_place.forget_done()

    def aborted(self, run: Run) -> None:
        """The process failed in the call that a run is at: the calls before it count, this one never does."""
        self._dispatch.aborted(run)
        self._retries.aborted(run)

    def failed(self, run: Run, index: int, message: Message, failure: Failure, now: float) -> Move:
        """Call `index` of a run raised. The caller goes on with the next one, unless the answer is Move.STOP: then
        the process failed, and the record stays as it was. Move.PAUSE: the same, and all engines of the task are to be
        told `paused`."""
        verdict = self._retries.verdict(failure)
        if verdict.move is Move.PAUSE:
            self._dispatch.hold_back(run, index, message)
        elif verdict.move is not Move.STOP:
            return self._retries.fail(run, self._dispatch.part(run, index, message), failure, now)
        return verdict.move

    def produced(self, run: Run, index: int, message: Message) -> Entry | None:
        """Call `index` returned and what it produced is not acknowledged yet: `settled` follows. None: its partition
        is gone, and nobody needs to hear."""
        return self._retries.produced(self._dispatch.part(run, index, message))

    def paused(self) -> None:
        """The gate is shut by an outage: callers go no further than the calls that they are in, and what waits to be
        tried in place waits for the end of the pause instead."""
        self._dispatch.cut_all()
        self._retries.paused()

    def stop(self) -> None:
        """Nothing new is begun."""
        self._common.stopping = True
        self._dispatch.cut_all()
        for assignment in self._partitions.assignments.values():
            self._work.unload(assignment)
        self._retries.end_in_place(self._dispatch.begun)

    def _drop(self, assignment: Assignment) -> None:
        """A partition is gone."""
        self._work.unload(assignment)
        self._retries.forget(assignment)
        self._dispatch.cut_all(assignment)

    # ---- commands

    def take(self, polling: bool, now: float) -> Run | None:
        """What to work now. `polling`: the caller is the poller; while calls are quick nobody else gets anything."""
        if self._ahead.blocked or not (polling or self.dispatch_mode.slow):
            return None
        most = self.gate.most(now)
        if not most:
            return None
        self._retries.readmit_due(now)
        return self._dispatch.take(most, now)

    def turn(self, now: float) -> Turn:
        """What the poller does next."""
        pause, resume, patient = self._work.pauses(self._partitions.assignments, self.has_forwards, now)
        rest = self._ahead.rest(now)
        return Turn(
            pause=tuple(pause),
            resume=tuple(resume),
            reset=tuple(self._partitions.resets),
            commit=self.commit(now),
            poll=0 if patient else self._common.batch,
            timeout=rest,
        )

    def commit(
        self, now: float, partitions: Iterable[TopicPartition] | None = None, at_once: bool = False
    ) -> dict[TopicPartition, CommittedOffset] | None:
        """Positions to commit, if it is time to (or `at_once`); one commit is in flight at a time."""
        if not at_once and not self._common.commits.due(now):
            return None
        self._dispatch.settle_all()
        return self._partitions.commit(now, partitions, at_once)

    # ---- what others may know

    @property
    def stopping(self) -> bool:
        return self._common.stopping

    @property
    def epoch(self) -> float:
        """The wall clock's time when `now` was 0, in seconds since the epoch, as far as the driver knows."""
        return self._common.epoch

    @epoch.setter
    def epoch(self, epoch: float) -> None:
        self._common.epoch = epoch

    @property
    def empty(self) -> bool:
        """Nothing is in flight, here and not begun, or waiting."""
        return self._ahead.empty

    @property
    def quiet(self) -> bool:
        """No call is running, no transfer may still end by itself, nothing waits for what it produced."""
        return self._ahead.quiet

    @property
    def idle(self) -> bool:
        """Empty, and all that is done is committed."""
        return self._ahead.empty and not self._common.commits.open

    @property
    def running(self) -> Iterable[Run]:
        """The runs that callers are in."""
        return self._dispatch.running

    @property
    def calls(self) -> int:
        """Callers that are in a run."""
        return len(self._dispatch.running)

    def busy_with(self, run: Run) -> bool:
        """Whether a run's caller is in it, and was not found stuck."""
        return run in self._dispatch.running and run.looks >= 0

    @property
    def left_open(self) -> bool:
        """Whether the stage has left with anything that was done and not committed, or was on its way."""
        return bool(self.uncommitted or self.unforwarded)

    @property
    def uncommitted(self) -> dict[TopicPartition, CommittedOffset]:
        """What a stop could not commit."""
        return self._partitions.uncommitted

    @property
    def unforwarded(self) -> list[Forward]:
        """Copies that were not acknowledged when the stage left."""
        return self._retries.unforwarded

    @property
    def has_news(self) -> bool:
        """Whether anything is to be written or logged."""
        return self._retries.news or self._retries.forwards.queued

    @property
    def has_forwards(self) -> bool:
        """Whether any record is on its way to the next stage."""
        return len(self._retries.forwards) > 0

    @property
    def open_forwards(self) -> int:
        """Records on their way to the next stage, those included that it refuses."""
        return len(self._retries.forwards)

    @property
    def refused(self) -> list[Forward]:
        """Records that the next topic refuses."""
        return self._retries.forwards.refused

    @property
    def waiting(self) -> int:
        """Records that are here and not due yet."""
        return len(self._work.delay_queue)

    @property
    def next_due(self) -> float | None:
        """When the first of them is due, in milliseconds since the epoch."""
        return self._work.delay_queue.next_due

    def open(self) -> Iterator[tuple[Entry, Forward | None]]:
        """Records whose call has ended and that are not done, each with its forwarded copy; None: of what the call
        produced."""
        for assignment in self._partitions.assignments.values():
            for entry in assignment.open:
                yield entry, self._retries.forwards.of(entry)

    @property
    def partitions(self) -> list[TopicPartition]:
        return list(self._partitions.assignments)

    def stalled(self, now: float) -> list[Stall]:
        """What has work and has got nowhere for the policy's `stalled_after`, with what it waits for."""
        common, forwards = self._common, self._retries.forwards
        return [
            what_holds(assignment, standing, self.running, forwards, common.gate, common.commits, common.policy, now)
            for assignment, standing in self._watchdog.stalled(self._partitions.assignments.values(), now)
        ]

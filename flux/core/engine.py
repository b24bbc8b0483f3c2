"""One stage of one task as a state machine: facts in, commands out. No I/O, no threads, no clock.

A record's way: `polled` puts it into its partition's backlog (main stage) or among the delays (retry stages). `take`
hands out runs: a slice of a backlog as it came while calls are quick, single entries through lanes once a run was
split. The caller publishes how far it is in the run itself and reports what is not a plain success: `failed`,
`produced`, and at the end `finished`. A failed record becomes a hop; `written` ends it. The ledger of each partition
says what may be committed; `turn` asks for that and for everything else that the poller does.

The driver guards an engine with one lock; nothing here waits. `now` is seconds since the epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping

from flux.core import trail as trails
from flux.core.assignment import Assignment, Entry, Event, Phase, Run, Slice
from flux.core.backoff import default_wait
from flux.core.commands import Level, Notice, Turn
from flux.core.delays import Delays
from flux.core.errors import BrokerError, Fault
from flux.core.hops import Hop, Hops, State
from flux.core.lanes import Lanes
from flux.core.ledger import read_metadata
from flux.core.message import Message
from flux.core.outcome import NEXT, Move, Verdict
from flux.core.pace import LEAST_PROGRESS, LOOK, Pace
from flux.core.policy import Policy
from flux.core.ports import BEGINNING, Polled, Position, TopicPartition, Watermarks
from flux.core.stage import Role, Stage
from flux.core.stats import Stats
from flux.core.transfer import Failure, Transfer, describe

BATCH = 500
"""Records asked for in one poll: what makes the client's own cost per record smallest."""
FULL = 1_000
"""Records of one partition that are here and not begun, from which on it is full."""
FULL_IN_ALL = 20_000
REST = 0.25
"""Seconds that a poll may wait when nothing is due: how long a stop or a wake-up may take."""
PAUSED_REST = 0.05
"""The same while a partition is paused, and may be resumed meanwhile."""
BUSY_REST = 0.005
"""The same while there is work at hand."""
PATIENCE = 1.0
"""Seconds that a full stage does not poll before it pauses its partitions and polls again: a pause costs a refetch."""


class Engine:
    """`topic_limits`: bytes that a target topic takes in a record, as far as that is known."""

    def __init__(self, policy: Policy, stage: Stage, topic_limits: Mapping[str, int] | None = None) -> None:
        self.policy = policy
        self.stage = stage
        self.stats = Stats()
        self.pace = Pace()
        self.stopping = False
        self._limits = dict(topic_limits or {})
        self._assignments: dict[TopicPartition, Assignment] = {}
        self._round: deque[Assignment] = deque()
        self._lanes = Lanes(policy.ordering)
        self._delays = Delays()
        self._hops = Hops()
        self._running: set[Run] = set()
        self._resets: set[TopicPartition] = set()
        self._notices: list[Notice] = []
        self._told: set[str] = set()
        self._done = 0
        self._commit_at = 0.0
        self._committing: dict[TopicPartition, Position] | None = None
        self._full_since: float | None = None
        self._with_metadata = True

    def __repr__(self) -> str:
        return f"<Engine {self.stage.topic} {list(self._assignments.values())}>"

    # ---- facts: partitions

    def assigned(
        self,
        positions: Mapping[TopicPartition, Position | None],
        jitters: Mapping[TopicPartition, int],
        now: float,
        chosen: Container[TopicPartition] = (),
    ) -> dict[TopicPartition, int]:
        """The group gave these partitions to this member; returns where each starts. `positions`: what the group has
        committed, or None; `jitters`: a number from 0 to 29 for each, drawn now; `chosen`: partitions whose position
        was not committed but chosen just now, and is to be committed soon, so that it is chosen once only."""
        starts: dict[TopicPartition, int] = {}
        for partition, position in positions.items():
            start = BEGINNING if position is None else position.offset
            done: list[tuple[int, int]] | None = []
            if position is not None and position.metadata:
                done = read_metadata(position.offset, position.metadata)
                if done is None:
                    self._notice(
                        Level.WARNING,
                        f"{partition}: the string stored with position {position.offset} is not flux's or is damaged;"
                        " what was done above the position is done again",
                    )
            old = self._assignments.get(partition)
            if old is not None:
                self._forget(old, Event.LOST)
            self._assignments[partition] = Assignment(
                partition,
                start,
                done or [],
                None if partition in chosen else position,
                jitters[partition],
                self.policy.max_metadata,
            )
            starts[partition] = start
        self._commit_at = now + (0.0 if chosen else self.policy.commit_interval)
        self._done += bool(chosen)
        return starts

    def revoking(self, partitions: Iterable[TopicPartition]) -> None:
        """They will be given up: nothing of them is begun any more; ask `drained`, commit, then `revoked`."""
        for assignment in self._of(partitions):
            assignment.to(Event.REVOKING)
            self._unload(assignment)
            for run in list(self._running):
                if run.assignment is assignment or run.entries is not None:
                    self._cut(run)

    def drained(self, partitions: Iterable[TopicPartition] | None = None) -> bool:
        """Whether nothing of them (None: of any) is in flight: called, being written, or waiting for what a call
        produced."""
        chosen = list(self._assignments.values() if partitions is None else self._of(partitions))
        return not any(
            assignment.running or any(self._in_flight(entry) for entry in assignment.open) for assignment in chosen
        )

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Given up: what of them has not ended counts for nothing here."""
        for assignment in self._of(partitions):
            self._forget(assignment, Event.REVOKED)

    def lost(self, partitions: Iterable[TopicPartition]) -> None:
        """Another member may have them already."""
        for assignment in self._of(partitions):
            self._notice(Level.WARNING, f"{assignment.partition} was lost: what was in flight will be worked again")
            self._forget(assignment, Event.LOST)

    def reset(self, partition: TopicPartition, marks: Watermarks, now: float) -> int | None:
        """The position was out of range, and this is what the partition holds. Returns where to go on, from its
        oldest record; None when it is not ours any more."""
        self._resets.discard(partition)
        old = self._assignments.get(partition)
        if old is None or old.phase is not Phase.WORKING:
            return None
        at = old.ledger.end if old.ledger is not None else marks.low
        if at < marks.low:
            gone = f"{marks.low - at} offset(s) are gone before they were worked (deleted by retention?)"
        else:
            gone = f"the log ends at {marks.high} (was the topic created anew?)"
        self._notice(
            Level.ERROR, f"{partition}: position {at} is out of range: {gone}; going on from the oldest, {marks.low}"
        )
        self._forget(old, Event.LOST)
        self._assignments[partition] = Assignment(partition, marks.low, [], None, old.jitter, self.policy.max_metadata)
        return marks.low

    # ---- facts: records and calls

    def polled(self, polled: Polled, now: float) -> None:
        """A poll brought these."""
        self._resets.update(polled.out_of_range)
        for batch in polled.batches:
            assignment = self._assignments.get(batch.partition)
            if assignment is None or assignment.phase is not Phase.WORKING or self.stopping:
                continue
            for piece in assignment.deliver(batch.records):
                if self.stage.role is Role.MAIN:
                    assignment.backlog.append(piece)
                    assignment.backlogged += len(piece.records)
                    self._queue(assignment)
                else:
                    self._delay(assignment, piece, now)

    def finished(self, run: Run, now: float) -> None:
        """The caller has made all calls of a run that are its own."""
        self._running.discard(run)
        calls = run.index
        self._settle(run, run.index)
        if run.split is not None:
            self._lanes.end(run.split)
        for assignment in self._assignments_of(run):
            assignment.running.discard(run)
        self.pace.took(now - run.started, calls)
        self._lanes.retry_aside()

    def aborted(self, run: Run) -> None:
        """The process failed in the call that a run is at: the calls before it count, this one never does."""
        self._settle(run, run.index)
        self._running.discard(run)
        for assignment in self._assignments_of(run):
            assignment.running.discard(run)

    def failed(self, run: Run, index: int, message: Message, failure: Failure, now: float) -> Move:
        """Call `index` of a run raised. The caller goes on with the next one, unless the answer is Move.STOP: then
        the process failed, and the record stays as it was."""
        verdict = self.policy.rules.verdict(failure.error)
        if verdict.move is Move.STOP:
            return verdict.move
        self.stats.failed += 1
        entry = self._part(run, index, message)
        if entry is not None:
            self._move(entry, verdict, failure, now)
        return verdict.move

    def produced(self, run: Run, index: int, message: Message) -> Entry | None:
        """Call `index` returned and what it produced is not acknowledged yet: `settled` follows. None: its partition
        is gone, and nobody needs to hear."""
        return self._part(run, index, message)

    def settled(self, entry: Entry, failure: Failure | None, now: float) -> None:
        """What the call of `entry` produced is acknowledged, or failed to be."""
        if entry.assignment.phase is Phase.GONE or entry not in entry.assignment.open:
            return
        if failure is None:
            self._close(entry)
            self.stats.done += 1
        else:
            self.stats.failed += 1
            self._move(entry, self.policy.rules.verdict(failure.error), failure, now)

    def looked(self, now: float) -> list[Run]:
        """A watcher looks, every few milliseconds while runs are worked: splits those that are stuck, and returns
        them. A run's caller goes on with the call that it is in; the rest is for others."""
        stuck = []
        for run in list(self._running):
            if run.seen < 0 or now - run.started < LOOK:
                continue
            index = run.index
            if index - run.seen < LEAST_PROGRESS and index < run.limit:
                self.pace.stuck()
                self._cut(run)
                run.seen = -1
                stuck.append(run)
            else:
                run.seen = index
        return stuck

    # ---- facts: hops and commits

    def written(self, hop: Hop, now: float) -> None:
        """A hop is acknowledged by all in-sync replicas."""
        self._hops.written(hop)
        entry = hop.entry
        if entry.assignment.phase is Phase.GONE:
            return
        if hop.kept:
            self._lanes.release(entry)
        self._close(entry)
        if hop.transfer.target.role is Role.DEAD:
            self.stats.dead += 1
        else:
            self.stats.retried += 1
        self._lanes.retry_aside()

    def unwritten(self, hop: Hop, error: BrokerError, now: float) -> None:
        """A hop's write failed."""
        notice = self._hops.unwritten(hop, error, now)
        if notice is not None:
            self._notices.append(notice)
        entry = hop.entry
        if hop.state is State.KEPT and not hop.kept and entry.assignment.phase is Phase.WORKING:
            hop.kept = True
            for run in list(entry.assignment.running):
                self._cut(run)
            self._lanes.hold(entry)

    def committed(self, positions: Mapping[TopicPartition, Position], error: BrokerError | None, now: float) -> None:
        """A commit ended."""
        self._committing = None
        if error is None:
            for partition, position in positions.items():
                assignment = self._assignments.get(partition)
                if assignment is not None:
                    assignment.committed = position
            return
        self.stats.commit_failures += 1
        self._done += 1
        self._commit_at = now + min(self.policy.commit_interval, 1.0)
        if error.fault is Fault.METADATA:
            self._with_metadata = False
            self._notice(
                Level.ERROR,
                f"the broker takes no strings of this length with a position ({error}): set the task's max_metadata to"
                " its offset.metadata.max.bytes; until then what is done above a position is done again after a crash",
            )
        elif not error.retriable and error.fault is not Fault.FENCED:
            self._notice(Level.ERROR, f"positions of {self.stage.group} cannot be committed: {error}")

    # ---- commands

    def take(self, polling: bool, now: float) -> Run | None:
        """What to work now. `polling`: the caller is the poller; while calls are quick nobody else gets anything."""
        if self.stopping or self._hops.blocked or not (polling or self.pace.slow):
            return None
        chunk = self.pace.chunk
        now_ms = int(now * 1000)
        while self._lanes.ready < 2 * chunk:
            entry = self._delays.due(now_ms)
            if entry is None:
                break
            self._lanes.add(entry)
        entries = self._lanes.take(chunk)
        spread = self.pace.slow and self.policy.concurrency > 1
        for _ in range(len(self._round)):
            if entries:
                break
            assignment = self._round[0]
            piece = assignment.backlog[0]
            if assignment.laned or spread:
                if assignment.laned < FULL:
                    self._unqueue(assignment)
                    self._split(assignment, piece)
                    entries = self._lanes.take(chunk)
                    continue
            elif self._admits(assignment, piece):
                self._unqueue(assignment)
                return self._start(Run(assignment, piece.records, piece.end, None, now), (assignment,))
            self._round.rotate(-1)
        if not entries:
            return None
        run = Run(None, [], 0, entries, now)
        return self._start(run, self._assignments_of(run))

    def writes(self, now: float) -> list[Hop]:
        """Hops to write now, in this order."""
        return self._hops.take(now)

    def limit(self, topic: str) -> int | None:
        return self._limits.get(topic)

    def tell(self, notice: Notice) -> None:
        """Adds a line for the log."""
        self._notices.append(notice)

    def notices(self) -> list[Notice]:
        """What to log."""
        notices, self._notices = self._notices, []
        return notices

    def turn(self, now: float) -> Turn:
        """What the poller does next."""
        working = [a for a in self._assignments.values() if a.phase is Phase.WORKING]
        full = self._is_full(working)
        if not full:
            self._full_since = None
        elif self._full_since is None or self._full_since > now:
            self._full_since = now
        patient = self._full_since is not None and now - self._full_since < PATIENCE
        pause: list[TopicPartition] = []
        resume: list[TopicPartition] = []
        for assignment in working:
            wanted = self._wants_pause(assignment, full and not patient, len(working))
            if wanted != assignment.paused:
                assignment.paused = wanted
                (pause if wanted else resume).append(assignment.partition)
        deadline = self.deadline(now)
        rest = REST if deadline is None else min(max(deadline - now, 0.0), REST)
        if any(assignment.paused for assignment in working):
            rest = min(rest, PAUSED_REST)
        if self._ready(now) or self._hops.queued:
            rest = min(rest, BUSY_REST)
        return Turn(
            pause=tuple(pause),
            resume=tuple(resume),
            reset=tuple(self._resets),
            commit=self.commit(now),
            poll=0 if patient else BATCH,
            timeout=rest,
        )

    def deadline(self, now: float) -> float | None:
        """When something is to be done although no fact comes: a record is due, a hop is tried again, a commit."""
        times = []
        if not self.stopping and self._delays.next_due is not None:
            times.append(self._delays.next_due / 1000)
        if self._hops.deadline is not None:
            times.append(self._hops.deadline)
        if self._done and self._committing is None:
            times.append(min(self._commit_at, now + self.policy.commit_interval))
        return min(times, default=None)

    def commit(
        self, now: float, partitions: Iterable[TopicPartition] | None = None, at_once: bool = False
    ) -> dict[TopicPartition, Position] | None:
        """Positions to commit, if it is time to (or `at_once`); one commit is in flight at a time."""
        if not at_once:
            if self._committing is not None:
                return None
            if self._commit_at - now > self.policy.commit_interval:
                self._commit_at = now + self.policy.commit_interval  # the clock was set back
            if now < self._commit_at and self._done < self.policy.commit_threshold:
                return None
        for run in self._running:
            if run.entries is None:
                self._settle(run, run.index)
        chosen = list(self._assignments.values() if partitions is None else self._of(partitions))
        positions = {}
        for assignment in chosen:
            position = assignment.position
            if position is not None and not self._with_metadata:
                position = Position(position.offset)
            if position is not None and position != assignment.committed:
                positions[assignment.partition] = position
        if partitions is None:
            self._done = 0
            self._commit_at = now + self.policy.commit_interval
        if not positions:
            return None
        if not at_once:
            self._committing = positions
        return positions

    def stop(self) -> None:
        """Nothing new is begun."""
        self.stopping = True
        for run in list(self._running):
            self._cut(run)
        for assignment in self._assignments.values():
            self._unload(assignment)

    # ---- what the others may know

    def ready(self, now: float) -> int:
        """About how many callers could get work from `take` now."""
        return 0 if self.stopping or self._hops.blocked else self._ready(now)

    @property
    def idle(self) -> bool:
        """Nothing is in flight, here and not begun, or waiting; all that is done is committed."""
        return not (
            self._running
            or self._round
            or len(self._lanes)
            or len(self._delays)
            or len(self._hops)
            or self._done
            or self._committing is not None
            or self._resets
            or any(assignment.open for assignment in self._assignments.values())
        )

    @property
    def quiet(self) -> bool:
        """No call is running, no transfer may still end by itself, nothing waits for what it produced."""
        return (
            not self._running
            and not self._hops.any_moving
            and not any(entry for a in self._assignments.values() for entry in a.open if self._in_flight(entry))
        )

    @property
    def calls(self) -> int:
        """Runs that callers are in."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Records that are here and not due yet."""
        return len(self._delays)

    @property
    def partitions(self) -> list[TopicPartition]:
        return list(self._assignments)

    def ends(self) -> dict[TopicPartition, int | None]:
        """After the last record delivered of each partition; None when none was."""
        return {a.partition: a.ledger.end if a.ledger else None for a in self._assignments.values()}

    # ---- inside

    def _ready(self, now: float) -> int:
        next_due = self._delays.next_due
        return self._lanes.ready + len(self._round) + (next_due is not None and next_due <= now * 1000)

    def _of(self, partitions: Iterable[TopicPartition]) -> list[Assignment]:
        return [self._assignments[partition] for partition in partitions if partition in self._assignments]

    @staticmethod
    def _assignments_of(run: Run) -> Iterable[Assignment]:
        return (run.assignment,) if run.entries is None else {entry.assignment for entry in run.entries}  # type: ignore[return-value]

    def _notice(self, level: Level, text: str, once: str | None = None) -> None:
        if once is not None:
            if once in self._told:
                return
            self._told.add(once)
        self._notices.append(Notice(level, text))

    def _queue(self, assignment: Assignment) -> None:
        if not assignment.queued:
            assignment.queued = True
            self._round.append(assignment)

    def _unqueue(self, assignment: Assignment) -> None:
        """Takes the first piece out of the backlog of the first in the round."""
        piece = assignment.backlog.popleft()
        assignment.backlogged -= len(piece.records)
        self._round.popleft()
        assignment.queued = False
        if assignment.backlog:
            self._queue(assignment)

    def _admits(self, assignment: Assignment, piece: Slice) -> bool:
        """Whether a slice may be begun: nothing of an ordered partition runs beside it, and the metadata has room."""
        ledger = assignment.ledger
        assert ledger is not None
        if assignment.running and self.policy.ordering != "none":
            return False
        return piece.records[0].offset() <= ledger.position or ledger.admits(
            piece.end, len(assignment.running) + len(assignment.open)
        )

    def _start(self, run: Run, assignments: Iterable[Assignment]) -> Run:
        self._running.add(run)
        for assignment in assignments:
            assignment.running.add(run)
        return run

    def _split(self, assignment: Assignment, piece: Slice) -> None:
        records, trail = piece.records, trails.start()
        for index, record in enumerate(records):
            end = records[index + 1].offset() if index + 1 < len(records) else piece.end
            self._lanes.add(Entry(assignment, Message(record, record.value(), trail), record.offset(), end))

    def _cut(self, run: Run) -> None:
        """Gives what a run has not begun to others."""
        index = run.cut()
        self._settle(run, index)
        if run.entries is not None:
            rest = run.entries[index + 1 :]
            before = self._assignments_of(run)
            del run.entries[index + 1 :]
            for left in set(before).difference(self._assignments_of(run)):
                left.running.discard(run)
            self._lanes.give_back([e for e in rest if e.assignment.phase is Phase.WORKING])
            return
        assignment = run.assignment
        assert assignment is not None
        if index >= len(run.records) or run.split is not None or assignment.phase is Phase.GONE:
            return
        record = run.records[index]
        run.split = Entry(assignment, Message(record, None, trails.start()), record.offset(), run.after(index))
        self._lanes.begin(run.split)
        rest = run.records[index + 1 :]
        if rest and assignment.phase is Phase.WORKING and not self.stopping:
            assignment.backlog.appendleft(Slice(rest, run.end))
            assignment.backlogged += len(rest)
            self._queue(assignment)

    def _settle(self, run: Run, index: int) -> None:
        """Accounts for the calls of a run before `index`: they have ended well."""
        start, run.marked = run.marked, max(index, run.marked)
        if start >= index:
            return
        self.stats.done += index - start
        self._done += index - start
        if run.entries is not None:
            for entry in run.entries[start:index]:
                if entry.assignment.phase is not Phase.GONE:
                    entry.assignment.ledger.done(entry.offset, entry.end)  # type: ignore[union-attr]
                self._lanes.end(entry)
            return
        assignment = run.assignment
        assert assignment is not None
        if assignment.phase is not Phase.GONE:
            assert assignment.ledger is not None
            assignment.ledger.done(run.records[start].offset(), run.after(index - 1))

    def _part(self, run: Run, index: int, message: Message) -> Entry | None:
        """Takes call `index` out of its run: the run goes on past it, the record is open on its own."""
        self._settle(run, index)
        run.marked = index + 1
        if run.entries is not None:
            entry = run.entries[index]
            self._lanes.end(entry)
        else:
            assert run.assignment is not None
            entry = Entry(run.assignment, message, message.offset, run.after(index))
        if entry.assignment.phase is Phase.GONE:
            return None
        entry.assignment.open.add(entry)
        return entry

    def _close(self, entry: Entry) -> None:
        """An open entry is done."""
        assignment = entry.assignment
        assignment.open.discard(entry)
        assert assignment.ledger is not None
        assignment.ledger.done(entry.offset, entry.end)
        self._done += 1

    def _in_flight(self, entry: Entry) -> bool:
        """Of an open entry: whether its end is near, as it waits for an acknowledgement."""
        return self._hops.moving(entry) or not self._hops.has(entry)

    def _move(self, entry: Entry, verdict: Verdict, failure: Failure, now: float) -> None:
        """Sends an open entry to the next stage, or to the dead letters."""
        stages, stage = self.policy.stages, self.stage
        following = stages.after(stage)
        if following is None:
            self._close(entry)
            self._notice(Level.INFO, f"{entry.message!r} failed once more ({failure.error!r}) and stays a dead letter")
            return
        target = following if verdict.move is Move.NEXT else stages[stages.dead]
        reason = "exhausted" if verdict is NEXT and target.role is Role.DEAD else verdict.reason
        if verdict.move is Move.NEXT and target.role is Role.DEAD:
            reason = "exhausted"
        message = entry.message
        kind, text, trace = describe(failure, self.policy.error_headers)
        transfer = Transfer(
            message=message,
            source=stage,
            target=target,
            reason=reason,
            wait=self._wait(target, verdict.after, entry.assignment.jitter),
            group=stages.group,
            failed_at=int(now * 1000),
            error_type=kind,
            error_text=text,
            error_trace=trace,
        )
        size = len(message.raw_value or b"") + len(message.key or b"") + len(trace) + 500
        self._hops.add(Hop(entry, transfer, size))

    def _wait(self, target: Stage, after: float | None, jitter: int) -> float:
        if target.role is Role.DEAD:
            return 0.0
        longest = self.policy.max_delay
        if after is not None:
            if after > longest:
                self._notice(
                    Level.WARNING, f"Retry(after={after:g}) is longer than max_delay: clipped to {longest:g} s"
                )
            return min(after, longest)
        try:
            return self.policy.wait(target, jitter)
        except Exception as error:
            wait = float(min(default_wait(target.number, jitter), longest))
            self._notice(
                Level.ERROR, f"wait failed for stage {target.number} ({error!r}): waiting {wait:g} s", once="wait"
            )
            return wait

    def _delay(self, assignment: Assignment, piece: Slice, now: float) -> None:
        """Records of a retry stage wait until they are due."""
        now_ms, records = int(now * 1000), piece.records
        max_delay_ms = int(self.policy.max_delay * 1000)
        for index, record in enumerate(records):
            message = Message(record, record.value(), trails.start())
            trail = trails.read(message.headers, self.stage.number, now_ms, max_delay_ms)
            message.place(trail)
            if not message.headers_readable:
                self._notice(
                    Level.WARNING, f"{message!r}: its headers cannot be read, and are left out", once="headers"
                )
            for name in trail.ignored:
                self._notice(
                    Level.WARNING,
                    f"{message!r}: header {name} cannot be understood, and is taken as absent (logged once)",
                    once=name,
                )
            end = records[index + 1].offset() if index + 1 < len(records) else piece.end
            entry = Entry(assignment, message, record.offset(), end)
            entry.size = len(message.value or b"") + len(message.key or b"")
            if trail.due is not None:
                entry.due = trail.due
            else:
                written = message.timestamp
                if not 0 < written <= now_ms:
                    written = now_ms
                stage, jitter = self.stage, assignment.jitter
                after = self._wait(stage, None, jitter) if stage.role is not Role.DEAD else self._dead_wait(jitter)
                entry.due = written + int(after * 1000)
            if entry.due < now_ms - 1000:
                self.stats.late += 1
            self._delays.add(entry)

    def _dead_wait(self, jitter: int) -> float:
        try:
            return self.policy.wait(self.stage, jitter)
        except Exception:
            return float(min(default_wait(self.stage.number, jitter), self.policy.max_delay))

    def _is_full(self, working: list[Assignment]) -> bool:
        if self.stage.role is not Role.MAIN or not working:
            return False
        loads = [a.backlogged + a.laned for a in working]
        return min(loads) >= FULL or sum(loads) >= FULL_IN_ALL

    def _wants_pause(self, assignment: Assignment, all_full: bool, partitions: int) -> bool:
        """Follows from the state at this turn, with a gap between pausing and resuming."""
        if self.stopping:
            return True
        if self.stage.role is Role.MAIN:
            load = assignment.backlogged + assignment.laned
            return all_full or load >= (FULL // 2 if assignment.paused else 2 * FULL)
        share = 0.5 if assignment.paused else 1.0
        return (
            assignment.waiting + assignment.laned >= max(1, self.policy.max_waiting // partitions) * share
            or assignment.waiting_bytes >= self.policy.max_waiting_bytes // partitions * share
        )

    def _unload(self, assignment: Assignment) -> None:
        """Forgets what of a partition has not been begun."""
        assignment.backlog.clear()
        assignment.backlogged = 0
        if assignment.queued:
            self._round.remove(assignment)
            assignment.queued = False
        self._lanes.drop(assignment)
        self._delays.drop(assignment)

    def _forget(self, assignment: Assignment, event: Event) -> None:
        assignment.to(event)
        self._unload(assignment)
        self._hops.forget(assignment)
        for run in list(assignment.running):
            self._cut(run)
        del self._assignments[assignment.partition]
        self._resets.discard(assignment.partition)

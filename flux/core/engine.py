"""One stage of one task as a state machine: facts in, commands out. No I/O, no threads, no clock.

A record's way: `polled` puts it into its partition's backlog (main stage) or among the delays (retry stages). `take`
hands out runs: a slice of a backlog as it came while calls are quick, entries through lanes once a run was split. The
caller publishes how far it is in the run itself, and reports what is not a plain success: `failed`, `produced`, and
at the end `finished`. A failed record becomes a hop; `written` ends it. The ledger of each partition says what may be
committed; `turn` asks for that and for everything else that the poller does.

The engine routes; its parts decide. A driver guards it with one lock; nothing here waits. `now` is seconds by a clock
that is never set back, and `epoch` says where the wall clock stands, by which records are due.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping

from flux.core import trail as trails
from flux.core.assignment import Assignment, Entry, Event, Phase, Slice
from flux.core.backlogs import Backlogs
from flux.core.batches import Batches
from flux.core.commands import Level, Notice, Stall, Turn
from flux.core.commits import Commits
from flux.core.delays import Delays
from flux.core.dues import Dues, whole_ms
from flux.core.errors import BrokerError, Fault
from flux.core.expiry import expires
from flux.core.flow import Flow
from flux.core.gate import Gate
from flux.core.hops import Hop, Hops, State
from flux.core.lanes import Lanes, Queues
from flux.core.ledger import read_metadata
from flux.core.message import Message
from flux.core.notices import Notices
from flux.core.outcome import EXPIRED, UNDECODABLE, Move, Verdict
from flux.core.pace import Pace
from flux.core.policy import Policy
from flux.core.ports import BEGINNING, Polled, Position, TopicPartition, Watermarks
from flux.core.quick import Quick, Waiting
from flux.core.runs import BatchRun, LaneRun, Run, SliceRun, WholeBatchRun
from flux.core.spread import Spread
from flux.core.stage import Role, Stage
from flux.core.starts import Starts
from flux.core.stats import Stats
from flux.core.transfer import Failure, Transfer, describe
from flux.core.watchdog import Watchdog, what_holds

BATCH = 500
"""Records asked for in one poll: what makes the client's own cost per record smallest."""
REST = 0.25
"""Seconds that a poll may wait when nothing is due: how long a stop or a wake-up may take."""
PAUSED_REST = 0.05
"""The same while a partition is paused, and may be resumed meanwhile."""
BUSY_REST = 0.005
"""The same while there is work at hand."""
LEAST_REST = 0.001
"""Clients count milliseconds: a shorter wait is none, and a stage would poll in a hot loop until a record is due."""
_SHOWN = 5  # partitions that a line names
_FEW = 10
"""Calls that may begin at once, below which a limit hands records out one by one."""
_HOP_OVERHEAD = 500  # bytes of headers and bookkeeping that an open hop holds, about


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
        self.stats = Stats()
        self.pace = Pace()
        self.stopping = False
        self.epoch = 0.0
        """The wall clock's time when `now` was 0, in seconds since the epoch, as far as the driver knows."""
        self._following = policy.stages.after(stage)
        self._dead = policy.stages[policy.stages.dead]
        self._limits = dict(topic_limits or {})
        self._assignments: dict[TopicPartition, Assignment] = {}
        self._backlogs = Backlogs()
        self._running: dict[Run, None] = {}
        self.uncommitted: dict[TopicPartition, Position] = {}
        """What a stop could not commit."""
        self.unforwarded: list[Hop] = []
        """Copies that were not acknowledged when the stage left."""
        self._resets: set[TopicPartition] = set()
        self._with_metadata = True
        self._notices = Notices()
        self._failures: list[tuple[Message, Failure, Move]] = []
        self.gate = Gate(policy.rate_limit) if gate is None else gate
        self._lanes: Queues = Lanes(policy.ordering) if policy.batch is None else Batches(policy.batch, policy.ordering)
        self._quick = Quick()
        self._delays = Delays()
        self._dues = Dues(policy, stage, self._notices)
        self._hops = Hops()
        self._flow = Flow(policy, stage.role)
        self.starts = Starts(policy, stage)
        self.spread = Spread()
        self._commits = Commits(policy.commit_interval, policy.commit_threshold)
        self._watchdog = Watchdog(policy.stalled_after)

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
        if positions:
            self.spread.known()
        for partition, position in positions.items():
            old = self._assignments.get(partition)
            if old is not None:
                self._forget(old, Event.LOST)
            starts[partition] = BEGINNING if position is None else position.offset
            done = [] if position is None else self._done_above(partition, position)
            committed = None if partition in chosen else position
            self._assignments[partition] = Assignment(
                partition, starts[partition], done, committed, jitters[partition], self.policy.max_metadata
            )
        if chosen:
            self._commits.soon(now)
        return starts

    def revoking(self, partitions: Iterable[TopicPartition]) -> None:
        """They will be given up: nothing of them is begun any more; ask `drained`, commit, then `revoked`."""
        for assignment in self._of(partitions):
            assignment.to(Event.REVOKING)
            self._unload(assignment)
            self._cut_all(assignment)
            self._end_quick(assignment)

    def drained(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether nothing of them is in flight: called, being written, or waiting for what a call produced."""
        return not any(
            assignment.running or any(map(self._in_flight, assignment.open)) for assignment in self._of(partitions)
        )

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Given up: what of them has not ended counts for nothing here."""
        for assignment in self._of(partitions):
            self._forget(assignment, Event.REVOKED)

    def lost(self, partitions: Iterable[TopicPartition]) -> None:
        """Another member may have them already."""
        for assignment in self._of(partitions):
            self._forget(assignment, Event.LOST)

    def reset(self, partition: TopicPartition, marks: Watermarks, now: float) -> int | None:
        """The position was out of range, and this is what the partition holds. Returns where to go on: its oldest
        record; None when it is not ours any more."""
        self._resets.discard(partition)
        old = self._assignments.get(partition)
        if old is None or old.phase is not Phase.WORKING:
            return None
        at = old.ledger.end if old.ledger is not None else marks.low
        # it was out of range when it was read: what has it now is another log, which has grown since
        made_anew = old.ledger is None or at >= marks.low
        if made_anew:
            gone = f"the log ends at {marks.high} (was the topic created anew?)"
        else:
            gone = f"{marks.low - at} offset(s) are gone before they were worked (deleted by retention?)"
        self._notices.add(
            Level.ERROR,
            f"{partition}: position {at} is out of range: {gone}; going on from the oldest, {marks.low}",
            about=partition,
        )
        self._commits.soon(now)
        if not made_anew:
            # a gap as any other: what is here already is worked, what has failed is moved, what was done stays so
            assert old.ledger is not None
            old.ledger.delivered(marks.low, marks.low)
            return marks.low
        self._forget(old, Event.LOST)
        self._assignments[partition] = Assignment(partition, marks.low, [], None, old.jitter, self.policy.max_metadata)
        return marks.low

    # ---- facts: records and calls

    def polled(self, polled: Polled, now: float) -> None:
        """A poll brought these."""
        self._resets.update(polled.out_of_range)
        now_ms = self.wall_ms(now)
        for batch in polled.batches:
            assignment = self._assignments.get(batch.partition)
            if assignment is None or assignment.phase is not Phase.WORKING or self.stopping:
                continue
            for piece in assignment.deliver(batch.records):
                piece.since = now
                if self.stage.role is Role.MAIN:
                    self._backlogs.add(assignment, piece)
                    continue
                timed, size = self._dues.timed(assignment, piece, now_ms)
                self.stats.late += bisect_left(timed.dues or (), now_ms - 1000)
                self._delays.add(assignment, timed, size)
        for partition, offset in polled.reached.items():
            assignment = self._assignments.get(partition)
            # a stage that stops takes no records, so that the client is further than what was delivered
            if assignment is not None and assignment.phase is Phase.WORKING and not self.stopping:
                self._commits.done += assignment.read_to(offset)

    def finished(self, run: Run, now: float) -> None:
        """The caller has made all calls of a run that are its own."""
        calls = run.index
        self._end(run)
        run.finish(self._lanes)
        self._quick.forget_done()
        self.gate.ended(run, called=calls > run.refused)
        self.pace.took(now - run.started, calls)
        self._lanes.retry_aside()

    def aborted(self, run: Run) -> None:
        """The process failed in the call that a run is at: the calls before it count, this one never does."""
        self._end(run)
        for entry in run.entries or ():
            self._quick.called.pop(entry, None)
        self.gate.ended(run, called=False)

    def failed(self, run: Run, index: int, message: Message, failure: Failure, now: float) -> Move:
        """Call `index` of a run raised. The caller goes on with the next one, unless the answer is Move.STOP: then
        the process failed, and the record stays as it was. Move.PAUSE: the same, and all engines of the task are to be
        told `paused`."""
        verdict = self._verdict(failure)
        if verdict.move is Move.PAUSE:
            self._hold_back(run, index, message)
        elif verdict.move is not Move.STOP:
            return self._fail(run, self._part(run, index, message), failure, now)
        return verdict.move

    def produced(self, run: Run, index: int, message: Message) -> Entry | None:
        """Call `index` returned and what it produced is not acknowledged yet: `settled` follows. None: its partition
        is gone, and nobody needs to hear."""
        entry = self._part(run, index, message)
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
            self.stats.done += 1
            return None
        verdict = self._verdict(failure)
        if verdict.move is Move.PAUSE:
            entry.assignment.open.pop(entry)
            if self._begins(entry.assignment):
                entry.message.value = entry.message.raw_value
                self._lanes.add_first(entry)
        elif verdict.move is not Move.STOP:
            self.stats.failed += 1
            return self._try_again(entry, verdict, failure, now)
        return verdict.move

    def paused(self) -> None:
        """The gate is shut by an outage: callers go no further than the calls that they are in, and what waits to be
        tried in place waits for the end of the pause instead."""
        for run in list(self._running):
            self._cut(run)
        for waiting in self._quick.take():
            self._readmit(waiting)

    def looked(self, now: float) -> list[Run]:
        """A watcher looks, about every `LOOK` seconds while runs are worked: splits those that are stuck, and returns
        them. A run's caller goes on with the call that it is in; the rest is for others. From then on records are
        handed out one by one, so no other slice may go on as one either."""
        stuck = self.pace.stuck(self._running, now)
        for run in self._running:
            if run.untold:  # it may last, and exceptions hold all that was in their calls
                self._settle(run)
        if stuck:
            for run in list(self._running):
                self._cut(run)
        return stuck

    # ---- facts: hops and commits

    def written(self, hop: Hop, now: float) -> bool:
        """`all_written` of one."""
        return bool(self.all_written((hop,), now))

    def all_written(self, hops: Iterable[Hop], now: float) -> list[Hop]:
        """Hops are acknowledged by all in-sync replicas. Gives those that count: a partition may be gone."""
        counted: list[Hop] = []
        ranges: dict[Assignment, list[tuple[int, int]]] = {}
        dead = 0
        for hop in hops:
            self._hops.written(hop)
            entry = hop.entry
            assignment = entry.assignment
            if entry not in assignment.open:
                continue
            del assignment.open[entry]
            if hop.kept:
                self._lanes.release(entry)
            ranges.setdefault(assignment, []).append((entry.offset, entry.end))
            dead += hop.transfer.target.role is Role.DEAD
            counted.append(hop)
        for assignment, done in ranges.items():
            assert assignment.ledger is not None
            done.sort()
            assignment.ledger.all_done(done)
        if counted:
            self.stats.dead += dead
            self.stats.retried += len(counted) - dead
            self._commits.done += len(counted)
            self._lanes.retry_aside()
        return counted

    def unwritten(self, hop: Hop, error: BrokerError, now: float) -> None:
        """A hop's write failed."""
        notice = self._hops.unwritten(hop, error, now)
        if notice is not None:
            self.tell(notice)
        assignment = hop.entry.assignment
        if hop.state is State.KEPT and not hop.kept and assignment.phase is Phase.WORKING:
            hop.kept = True
            self._cut_all(assignment)
            self._lanes.hold(hop.entry)

    def committed(self, positions: Mapping[TopicPartition, Position], error: BrokerError | None, now: float) -> None:
        """A commit ended."""
        self._commits.ended(error is None, now)
        if error is None:
            self.stats.commits += 1
            self.starts.committed(positions)
            for partition, position in positions.items():
                if partition in self._assignments:
                    self._assignments[partition].committed = position
            return
        self.stats.commit_failures += 1
        if error.fault is Fault.METADATA:
            self._with_metadata = False
            self._notices.add(
                Level.ERROR,
                f"the broker takes no strings of this length with a position ({error}): set the task's max_metadata to"
                " its offset.metadata.max.bytes; until then what is done above a position is done again after a crash",
            )
        elif not error.retriable and error.fault is not Fault.FENCED:
            self._notices.add(
                Level.ERROR,
                f"positions of {self.stage.group} cannot be committed: {error}",
                kind=("commit", error.fault),
            )

    def owed(self, positions: Mapping[TopicPartition, Position]) -> dict[TopicPartition, Position]:
        """Those of `positions` without which something would be done again, or passed over: all but where a partition
        begins."""
        if self.policy.start_from == "latest":
            return dict(positions)
        return {
            partition: position
            for partition, position in positions.items()
            if (assignment := self._assignments.get(partition)) is not None
            and (assignment.committed is not None or position != Position(assignment.start))
        }

    def gave_up(self, positions: Mapping[TopicPartition, Position], error: BrokerError) -> None:
        """The last positions cannot be committed: what was done since the commit before is done again."""
        self.uncommitted = dict(positions)
        shown = [f"{partition} up to {position.offset}" for partition, position in sorted(positions.items())]
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        self.tell(
            Notice(
                Level.ERROR,
                f"not committed: {', '.join(shown[:_SHOWN])}{more} ({error}):"
                " what was done since the commit before is done again",
            )
        )

    def left_behind(self) -> None:
        """The stage leaves: records whose copies are not acknowledged are called again."""
        self.unforwarded = self._hops.moving_all()
        if self.unforwarded:
            shown = list(map(str, self.unforwarded[:_SHOWN]))
            more = len(self.unforwarded) - len(shown)
            self.tell(
                Notice(
                    Level.ERROR,
                    f"not committed, as their copies are not written: {', '.join(shown)}"
                    f"{f' and {more} more' if more else ''}: they are called again",
                )
            )

    def stop(self) -> None:
        """Nothing new is begun."""
        self.stopping = True
        for run in list(self._running):
            self._cut(run)
        for assignment in self._assignments.values():
            self._unload(assignment)
        self._end_quick()

    # ---- commands

    def take(self, polling: bool, now: float) -> Run | None:
        """What to work now. `polling`: the caller is the poller; while calls are quick nobody else gets anything."""
        if self.stopping or self._hops.blocked or not (polling or self.pace.slow):
            return None
        most = self.gate.most(now)
        if not most:
            return None
        while (waiting := self._quick.due(now)) is not None:
            self._readmit(waiting)
        if self.policy.batch is not None:
            return self._take_batch(self.policy.batch.most, now)
        chunk = min(self.pace.chunk, most)
        few = self.gate.limited and most < _FEW
        spread = few or (self.pace.slow and self.policy.concurrency > 1)
        if spread and self.stage.role is not Role.MAIN:
            self._spread_due(now, 2 * chunk)
        entries = self._lanes.take(chunk, now)
        while not entries:
            found = self._next_slice(spread, now)
            if found is not None:
                assignment, piece = found
                if len(piece) > most:
                    self._give_back(assignment, piece.part(most))
                    piece = piece.part(0, most)
                return self._start(SliceRun(assignment, piece, now), now)
            entries = self._lanes.take(chunk, now)
            if spread or not (entries or self._ripen(now, BATCH)):
                break
        return self._start(LaneRun(entries, now), now) if entries else None

    def _take_batch(self, most: int, now: float) -> Run | None:
        """A batch that is full, or has waited; first of those whose records are here one by one."""
        while True:
            entries = self._lanes.take(1, now)
            for _ in range(len(self._backlogs)):
                if entries:
                    break
                assignment = self._backlogs.next
                alone = not (assignment.laned or assignment.running)
                if alone and len(assignment.backlog[0]) >= most and self._admits(assignment):
                    piece = self._backlogs.take()
                    if len(piece) > most:
                        self._give_back(assignment, piece.part(most))
                        piece = piece.part(0, most)
                    return self._start(WholeBatchRun(assignment, piece, now), now)
                if assignment.laned < self._flow.full or self.stage.role is not Role.MAIN:
                    self._split(assignment, self._backlogs.take())
                    entries = self._lanes.take(1, now)
                    continue
                self._backlogs.pass_on()
            if entries:
                return self._start(BatchRun(entries, now), now)
            if not self._ripen(now, max(most, BATCH)):
                return None

    def writes(self, now: float) -> list[Hop]:
        """Hops to write now, in this order."""
        return self._hops.take(now)

    def limit(self, topic: str) -> int | None:
        """Bytes that a target topic takes in a record, where that is known."""
        return self._limits.get(topic)

    def notices(self) -> list[Notice]:
        """What to log."""
        return self._notices.take()

    def failures(self) -> list[tuple[Message, Failure, Move]]:
        """Calls that were found failed when their runs were accounted for, with what becomes of their records."""
        failures, self._failures = self._failures, []
        return failures

    def tell(self, notice: Notice) -> None:
        """Adds a line for the log."""
        self._notices.add(notice.level, notice.text, about=notice.about, kind=notice.kind)

    def turn(self, now: float) -> Turn:
        """What the poller does next."""
        pause, resume, patient = self._pauses(now)
        deadline = self.deadline(now)
        # a time that is past is a hop's that somebody writes already, or is to be written in this very turn
        rest = REST if deadline is None else min(deadline - now if deadline > now else BUSY_REST, REST)
        if self._flow.paused:
            rest = min(rest, PAUSED_REST)
        if self.ready(now) and not self.pace.slow:
            rest = LEAST_REST  # it became due since the poller looked, who is to work it
        elif self.ready(now) or self._hops.queued or self._hops.writing:
            rest = min(rest, BUSY_REST)
        return Turn(
            pause=tuple(pause),
            resume=tuple(resume),
            reset=tuple(self._resets),
            commit=self.commit(now),
            poll=0 if patient else BATCH,
            timeout=max(rest, LEAST_REST),
        )

    def deadline(self, now: float) -> float | None:
        """When something is to be done although no fact comes: a record is due, a hop is tried again, a commit."""
        due = self._delays.next_due
        if due is not None and (self.stopping or self._hops.blocked or due <= self.wall_ms(now)):
            due = None  # nothing begins any more, or it waits for the cluster or a caller: no time changes that
        times = (
            None if due is None else due / 1000 - self.epoch,
            self.begins_at(now),
            self._hops.deadline,
            self._commits.deadline(now),
        )
        return min((time for time in times if time is not None), default=None)

    def begins_at(self, now: float) -> float | None:
        """When calls of records that are here and due may begin, where only time keeps them: the rate, a pause, a try
        in place, a batch that is not full."""
        if self.stopping or self._hops.blocked:
            return None
        times = [time for time in (self._quick.next_due, self._lanes.deadline()) if time is not None and time > now]
        opens = self.gate.opens_at(now)
        if opens is not None and opens > now and self._at_hand(now):
            times.append(opens)
        return min(times, default=None)

    def commit(
        self, now: float, partitions: Iterable[TopicPartition] | None = None, at_once: bool = False
    ) -> dict[TopicPartition, Position] | None:
        """Positions to commit, if it is time to (or `at_once`); one commit is in flight at a time."""
        if not at_once and not self._commits.due(now):
            return None
        for run in self._running:
            self._settle(run)
        positions = {}
        for assignment in list(self._assignments.values()) if partitions is None else self._of(partitions):
            position = assignment.position
            if position is not None and not self._with_metadata:
                position = Position(position.offset)
            if position is not None and position != assignment.committed:
                positions[assignment.partition] = position
        if partitions is None:
            self._commits.looked(now)
        if positions and not at_once:
            self._commits.began(positions, now)
        return positions or None

    # ---- what others may know

    def ready(self, now: float) -> int:
        """About how many callers could get work from `take` now."""
        if self.stopping or self._hops.blocked or (self.gate.limited and not self.gate.most(now)):
            return 0
        return self._at_hand(now)

    def wall_ms(self, now: float) -> int:
        """Milliseconds since the epoch by the wall clock."""
        return whole_ms(now + self.epoch)

    @property
    def empty(self) -> bool:
        """Nothing is in flight, here and not begun, or waiting."""
        return not (
            self._running
            or len(self._backlogs)
            or len(self._lanes)
            or len(self._delays)
            or len(self._quick)
            or len(self._hops)
            or self._resets
            or any(assignment.open for assignment in self._assignments.values())
        )

    def rests(self, now: float) -> bool:
        """Nothing goes on by itself: as `empty`, but for records that the next topic refuses and what waits behind
        them for their keys."""
        return self.empty or not (
            self._running
            or len(self._hops.refused) < len(self._hops)
            or len(self._delays)
            or len(self._quick)
            or self._resets
            or self._at_hand(now)
            or any(not self._hops.has(entry) for a in self._assignments.values() for entry in a.open)
        )

    @property
    def refused(self) -> list[Hop]:
        """Records that the next topic refuses."""
        return self._hops.refused

    @property
    def idle(self) -> bool:
        """Empty, and all that is done is committed."""
        return self.empty and not self._commits.open

    @property
    def quiet(self) -> bool:
        """No call is running, no transfer may still end by itself, nothing waits for what it produced."""
        return not (
            self._running
            or self._hops.any_moving
            or any(self._in_flight(entry) for a in self._assignments.values() for entry in a.open)
        )

    @property
    def calls(self) -> int:
        """Callers that are in a run."""
        return len(self._running)

    def busy_with(self, run: Run) -> bool:
        """Whether a run's caller is in it, and was not found stuck."""
        return run in self._running and run.looks >= 0

    @property
    def left_open(self) -> bool:
        """Whether the stage has left with anything that was done and not committed, or was on its way."""
        return bool(self.uncommitted or self.unforwarded)

    @property
    def has_news(self) -> bool:
        """Whether anything is to be written or logged."""
        return bool(self._failures or self._hops.queued)

    @property
    def has_hops(self) -> bool:
        """Whether any record is on its way to the next stage."""
        return len(self._hops) > 0

    @property
    def transfers(self) -> int:
        """Records on their way to the next stage, those included that it refuses."""
        return len(self._hops)

    @property
    def waiting(self) -> int:
        """Records that are here and not due yet."""
        return len(self._delays)

    @property
    def next_due(self) -> float | None:
        """When the first of them is due, in milliseconds since the epoch."""
        return self._delays.next_due

    @property
    def running(self) -> Iterable[Run]:
        """The runs that callers are in."""
        return self._running

    def open(self) -> Iterator[tuple[Entry, Hop | None]]:
        """Records whose call has ended and that are not done, each with its hop; None: of what the call produced."""
        for assignment in self._assignments.values():
            for entry in assignment.open:
                yield entry, self._hops.of(entry)

    @property
    def partitions(self) -> list[TopicPartition]:
        return list(self._assignments)

    def ends(self) -> dict[TopicPartition, int]:
        """How far each partition was read; negative where nothing is known."""
        return {a.partition: a.ledger.end if a.ledger else BEGINNING for a in self._assignments.values()}

    def positions(self) -> dict[TopicPartition, int]:
        """Up to which offset each partition is done; negative where nothing is known."""
        return {a.partition: a.ledger.position if a.ledger else BEGINNING for a in self._assignments.values()}

    def stalled(self, now: float) -> list[Stall]:
        """What has work and has got nowhere for the policy's `stalled_after`, with what it waits for."""
        return [
            what_holds(assignment, standing, self._running, self._hops, self.gate, self._commits, self.policy, now)
            for assignment, standing in self._watchdog.stalled(self._assignments.values(), now)
        ]

    # ---- inside: partitions

    def _of(self, partitions: Iterable[TopicPartition]) -> list[Assignment]:
        return [self._assignments[partition] for partition in partitions if partition in self._assignments]

    def _done_above(self, partition: TopicPartition, position: Position) -> list[tuple[int, int]]:
        if not position.metadata:
            return []
        done = read_metadata(position.offset, position.metadata)
        if done is None:
            self._notices.add(
                Level.WARNING,
                f"{partition}: the string stored with position {position.offset} is not flux's or is damaged;"
                " what was done above the position is done again",
                about=partition,
            )
        return done or []

    def _unload(self, assignment: Assignment) -> None:
        """Forgets what of a partition has not been begun."""
        self._backlogs.drop(assignment)
        self._lanes.drop(assignment)
        self._delays.drop(assignment)

    def _forget(self, assignment: Assignment, event: Event) -> None:
        assignment.to(event)
        assignment.open.clear()
        self._unload(assignment)
        self._quick.take(assignment)
        self._quick.take_called(assignment)
        self._hops.forget(assignment)
        self._cut_all(assignment)
        del self._assignments[assignment.partition]
        self._resets.discard(assignment.partition)

    # ---- inside: the backlog

    def _pauses(self, now: float) -> tuple[list[TopicPartition], list[TopicPartition], bool]:
        """(to pause, to resume, whether it is better not to poll) now."""
        if not (self.stopping or self._lanes or len(self._hops)) and self._flow.idle(self._backlogs):
            return [], [], False
        phase = Phase.WORKING  # an enumeration's attribute costs more than all else here
        working = [a for a in self._assignments.values() if a.phase is phase]
        patient = self._flow.patient(working, now)
        return *self._flow.changes(working, patient, self.stopping), patient

    def _give_back(self, assignment: Assignment, piece: Slice) -> None:
        """A slice that was taken, or its rest. What came to a retry stage in the meantime may be due before some of
        it, so all that nobody has begun is sorted anew."""
        if self.stage.role is Role.MAIN:
            self._backlogs.give_back(assignment, piece)
            return
        pieces = [piece, *assignment.backlog]
        self._backlogs.drop(assignment)
        for each in pieces:
            self._delays.add(assignment, each, each.size)

    def _admits(self, assignment: Assignment) -> bool:
        """Whether the next slice may be begun: nothing of an ordered partition runs beside it, and the metadata has
        room."""
        ledger, piece = assignment.ledger, assignment.backlog[0]
        assert ledger is not None
        if assignment.running and self.policy.ordering != "none":
            return False
        others = len(assignment.running) + len(assignment.open)
        if piece.ends is not None:
            return ledger.admits(max(piece.ends), others + len(piece))
        return piece.records[0].offset() <= ledger.position or ledger.admits(piece.end, others)

    def _split(self, assignment: Assignment, piece: Slice) -> None:
        trail = trails.start()
        for index, record in enumerate(piece.records):
            message = Message.of(record, record.value(), trail) if piece.messages is None else piece.messages[index]
            self._lanes.add(piece.entry(assignment, index, message))

    def _next_slice(self, spread: bool, now: float) -> tuple[Assignment, Slice] | None:
        """A slice that may be worked as one. If there is none, as far as order and metadata let others begin, the
        next one is split. `spread`: none is worked as one."""
        for _ in range(len(self._backlogs)):
            assignment = self._backlogs.next
            if assignment.laned or spread:
                # in a retry stage the record that all wait for may be the last: what is here is bounded otherwise
                if assignment.laned < self._flow.full or self.stage.role is not Role.MAIN:
                    self._split(assignment, self._backlogs.take())
                    if self._lanes.ready(now):
                        return None
                    continue
            elif self._admits(assignment):
                return assignment, self._backlogs.take()
            elif self.stage.role is not Role.MAIN and not assignment.running:
                # what holds the position back may not be due for long: single records may have room
                self._split(assignment, self._backlogs.take())
                return None
            self._backlogs.pass_on()
        return None

    def _ripen(self, now: float, most: int) -> bool:
        """Records of one partition that are due become its backlog, if nothing is left of that: what comes later may
        be due before what is here. Whether there were any."""
        due = self._delays.due(self.wall_ms(now), most)
        if due is None:
            return False
        assignment, pieces = due
        for piece in pieces:
            piece.since = now
            self._backlogs.add(assignment, piece)
        return True

    def _spread_due(self, now: float, wanted: int) -> None:
        """Single records that are due may be taken, the first due first."""
        while self._lanes.ready(now) < wanted and (len(self._backlogs) or self._ripen(now, wanted)):
            self._split(self._backlogs.next, self._backlogs.take())

    def _at_hand(self, now: float) -> int:
        """About how many callers could get work, if the gate let them."""
        due, quick = self._delays.next_due, self._quick.next_due
        return (
            self._lanes.ready(now)
            + len(self._backlogs)
            + (due is not None and due <= self.wall_ms(now))
            + (quick is not None and quick <= now)
        )

    def _begins(self, assignment: Assignment) -> bool:
        """Whether anything of a partition is begun any more."""
        return not self.stopping and assignment.phase is Phase.WORKING

    # ---- inside: runs

    def _start(self, run: Run, now: float) -> Run:
        if self.gate.limited:
            self.gate.began(run, 1 if self.policy.batch is not None else run.limit, now)
        self._running[run] = None
        for assignment in run.assignments():
            assignment.running[run] = None
        return run

    def _end(self, run: Run) -> None:
        self._settle(run)
        self._running.pop(run, None)
        for assignment in run.assignments():
            assignment.running.pop(run, None)

    def _settle(self, run: Run, index: int | None = None) -> None:
        done, failed = run.settle(run.index if index is None else index, self._lanes)
        self.stats.done += done
        self._commits.done += done
        for entry, failure in failed:
            self._quick.called.pop(entry, None)
            self._failures.append((entry.message, failure, self._fail(run, entry, failure, failure.at)))

    def _cut(self, run: Run) -> None:
        """Gives what a run has not begun to others."""
        index = run.cut()
        self._settle(run, index)
        rest = run.divide(index, self._lanes)
        if rest is not None:
            (assignment,) = run.assignments()
            if self._begins(assignment):
                self._give_back(assignment, rest)

    def _cut_all(self, assignment: Assignment) -> None:
        """The runs that have records of a partition."""
        for run in [run for run in self._running if assignment in run.assignments()]:
            self._cut(run)

    def _hold_back(self, run: Run, index: int, message: Message) -> None:
        """Call `index`, which a run is at, counts for nothing: the record is the first of its lane again."""
        self._settle(run, index)
        self._cut(run)
        entry = run.hold_back(index, message, self._lanes)
        if entry is None:
            return
        message.value = message.raw_value
        if self._begins(entry.assignment):
            self._lanes.give_back([entry])
        else:
            self._lanes.end(entry)

    def _part(self, run: Run, index: int, message: Message) -> Entry:
        """Takes call `index` out of its run, which goes on past it: the record is open on its own."""
        self._settle(run, index)
        entry = run.part(index, message, self._lanes)
        self._quick.called.pop(entry, None)
        return entry

    def _verdict(self, failure: Failure) -> Verdict:
        verdict = failure.verdict
        if verdict is None:
            verdict = failure.verdict = self.policy.rules.verdict(failure.error)
        return verdict

    def _fail(self, run: Run, entry: Entry, failure: Failure, now: float) -> Move:
        """A record that was taken out of its run failed."""
        verdict = self._verdict(failure)
        run.refused += verdict is EXPIRED or verdict is UNDECODABLE
        self.stats.failed += 1
        if entry.assignment.phase is Phase.GONE:
            return verdict.move
        entry.assignment.open[entry] = None
        return self._try_again(entry, verdict, failure, now)

    # ---- inside: open records

    def _close(self, entry: Entry) -> None:
        """An open record is done."""
        assignment = entry.assignment
        assignment.open.pop(entry, None)
        assert assignment.ledger is not None
        assignment.ledger.done(entry.offset, entry.end)
        self._commits.done += 1
        self._lanes.retry_aside()

    def _in_flight(self, entry: Entry) -> bool:
        """Of an open record: whether its end is near, as it waits for an acknowledgement only."""
        return self._hops.moving(entry) or not self._hops.has(entry)

    def _try_again(self, entry: Entry, verdict: Verdict, failure: Failure, now: float) -> Move:
        """An open record failed: it is tried again in place, or moves."""
        policy = self.policy
        wait = policy.quick_wait * 2**entry.tries
        if (
            not policy.holds_key(verdict)
            or entry.tries >= policy.quick_retries
            or not self._begins(entry.assignment)
            or expires(entry.message, policy.give_up_after, self.epoch + now + wait)
        ):
            self._move(entry, verdict, failure, now)
            return verdict.move
        entry.tries += 1
        entry.waits = True
        if policy.ordering != "none":
            # a slice in work may have more of the key; and once entries are in lanes, others may be worked beside it
            self._cut_all(entry.assignment)
        self._lanes.hold(entry)
        self._quick.add(Waiting(entry, verdict, failure, now), now + wait)
        return Move.AGAIN

    def _readmit(self, waiting: Waiting) -> None:
        """An open record that waited to be tried in place is the first of its lane."""
        entry = waiting.entry
        entry.waits = False
        entry.message = entry.message.again(self.wall_ms(waiting.failed_at))
        self._quick.called[entry] = waiting
        entry.assignment.open.pop(entry, None)
        self._lanes.add_first(entry)
        self._lanes.release(entry)

    def _end_quick(self, assignment: Assignment | None = None) -> None:
        """What waits to be tried in place, or for a caller since, moves on instead, as there is no time for that."""
        for waiting in self._quick.take(assignment):
            waiting.entry.waits = False
            self._lanes.release(waiting.entry)
            self._move(waiting.entry, waiting.verdict, waiting.failure, waiting.failed_at)
        begun = {entry for run in self._running if run.entries is not None for entry in run.entries[run.marked :]}
        for waiting in self._quick.take_called(assignment):
            entry = waiting.entry
            if entry not in begun and not entry.done:
                entry.assignment.open[entry] = None
                self._move(entry, waiting.verdict, waiting.failure, waiting.failed_at, called=False)

    def _move(self, entry: Entry, verdict: Verdict, failure: Failure, now: float, called: bool = True) -> None:
        """Sends an open record to the next stage, or to the dead letters. `called`: as its message says, which counts
        a call in place when it may begin."""
        message, following = entry.message, self._following
        kind, text, trace = failure.words or describe(failure, self.policy.error_headers)
        if following is None:
            self._close(entry)
            why = f"{kind}: {text}" if text else kind
            self._notices.add(
                Level.INFO, f"{message!r} failed once more ({why}) and stays a dead letter", about=message
            )
            return
        tried = verdict.move is Move.NEXT
        target = following if tried else self._dead
        wait = self._dues.wait(target, verdict.after, entry.assignment.jitter)
        reason = "exhausted" if tried and target.role is Role.DEAD else verdict.reason
        if target.role is not Role.DEAD and expires(message, self.policy.give_up_after, self.epoch + now + wait):
            target, reason, wait = self._dead, EXPIRED.reason, 0.0
        called = called and verdict is not EXPIRED
        group, failed_at = self.policy.stages.group, self.wall_ms(now)
        transfer = Transfer(message, target, reason, wait, group, failed_at, kind, text, trace, called)
        size = len(message.raw_value or b"") + len(message.key or b"") + len(trace) + _HOP_OVERHEAD
        self._hops.add(Hop(entry, transfer, size))

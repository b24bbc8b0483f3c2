"""A stage among random facts, and what must hold of it after each: the engine beside a model of the truth.

The model knows the log, the group's positions, who is in which call, and which record ended how. It is driven by a
seeded `random.Random`, so a failing walk can be walked again.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Any

import attrs

from flux.core.backoff import Waits
from flux.core.engine import Engine
from flux.core.engine.forwarding import Forward, ForwardState
from flux.core.engine.forwards import Failure
from flux.core.engine.offset_tracker import read_metadata
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import Move, Pause, Reject, Retry
from flux.core.errors import BrokerError, Fault
from flux.core.limits.dispatch_mode import CHECK_INTERVAL
from flux.core.limits.failure_rate import FailureRate
from flux.core.message import Message
from flux.core.ports import Batch, CommittedOffset, PollResult, TopicPartition
from flux.core.stage import Role
from unit.support.engine_support import AWAY, DAY, DENIED, STAGES, T0, TOO_LARGE, FakeRecord, message_at, policy

UNKNOWN = BrokerError("no such topic", Fault.UNKNOWN_TOPIC)
Place = tuple[TopicPartition, int]


def name_of(message: Message) -> str:
    return str(message.offset % 3)


@attrs.define(eq=False)
class Caller:
    """One that is in a run: `reported` when its call has ended, and it has not gone on yet."""

    run: Run
    gens: dict[TopicPartition, int]
    reported: bool = False
    well: bool = False
    noted: bool = False
    """Whether that ended badly, as its run will tell."""


@attrs.define(eq=False)
class Owned:
    """One assignment, as the model sees it."""

    gen: int
    start: int
    restored: list[tuple[int, int]]
    fetch: int
    draining: bool = False
    paused: bool = False
    delivered: dict[int, tuple[int, int]] = attrs.field(factory=dict)  # offset -> (due, number of the poll)
    pending: set[int] = attrs.field(factory=set)
    done: set[int] = attrs.field(factory=set)

    def was_restored(self, offset: int) -> bool:
        return any(start <= offset < end for start, end in self.restored)


class World:
    def __init__(
        self,
        seed: int,
        *,
        stage: int = 0,
        ordering: str = "key",
        records: int = 40,
        max_metadata: int = 4095,
        in_place: bool = False,
        named: bool = False,
    ) -> None:
        """`in_place`: calls may find outages, and are tried again in place; there may be a rate. `named`: there are
        limits by name."""
        self.random = rng = random.Random(seed)
        self.stage = STAGES[stage]
        self.ordering = ordering
        self.small = max_metadata < 1000
        self.max_metadata = max_metadata
        self.now = T0
        self.partitions = [TopicPartition(self.stage.topic, n) for n in range(2)]
        self.log: dict[TopicPartition, dict[int, FakeRecord]] = {}
        for partition in self.partitions:
            offset, self.log[partition] = rng.randint(0, 3), {}
            for _ in range(records):
                self.log[partition][offset] = self._made(partition, offset)
                offset += rng.choice((1, 1, 1, 1, 2, 3, 40))
        self.group: dict[TopicPartition, CommittedOffset] = {}
        self.owned: dict[TopicPartition, Owned] = {}
        self.callers: list[Caller] = []
        self.writing: list[Forward] = []
        self.settling: list[tuple[Entry, TopicPartition, int]] = []
        self.committing: tuple[dict[TopicPartition, CommittedOffset], BrokerError | None, float] | None = None
        self.truth: set[Place] = set()
        self.begun: Counter[tuple[TopicPartition, int, int]] = Counter()
        self.running: set[tuple[Place, int]] = set()
        self.kept: defaultdict[tuple[TopicPartition, Any], set[int]] = defaultdict(set)
        self.failed_in: dict[Place, int] = {}
        self.away: set[Place] = set()
        self.gens = 0
        self.polls = 0
        self.faults = True
        self.history: list[str] = []
        self.policy = policy(
            ordering=ordering,
            waits=Waits(10.0, 30 * DAY),
            concurrency=rng.choice((1, 3)),
            commit_interval=rng.choice((0.0, 0.5, 5.0)),
            max_metadata=max_metadata,
            max_waiting=rng.choice((6, 100_000)),
        )
        self.in_place = in_place
        self.probe: Run | None = None
        if in_place:
            self.policy = attrs.evolve(
                self.policy,
                in_place_retries=0 if self.stage.role is Role.DEAD else rng.choice((1, 3)),
                in_place_wait=rng.choice((0.0, 0.2, 4.0)),
                rate_limit=rng.choice((None, None, 20)),
            )
        if named:
            self.policy = attrs.evolve(
                self.policy,
                concurrency_key=rng.choice((None, name_of)),
                concurrency_per_key=rng.choice((1, 2)),
                rate_limit=rng.choice((2, 20)),
                rate_limit_key=rng.choice((lambda message: message.key, name_of)),
                pause_when=rng.choice((None, FailureRate(0.5, of=4, by=name_of))),
            )
        self.engine = Engine(self.policy, self.stage)

    def _made(self, partition: TopicPartition, offset: int) -> FakeRecord:
        rng = self.random
        headers: list[tuple[str, bytes | None]] = []
        written = int((T0 - rng.choice((0, 5, 20))) * 1000)
        if rng.random() < 0.7:
            due = written + rng.choice((0, 1000, 1000, 7000, rng.randint(0, 120_000)))
            headers.append(("flux-due", str(due).encode()))
        key = rng.choice((None, b"", b"a", b"a", b"b", b"c"))
        return FakeRecord(offset, key, b"v", headers, written, *partition)

    def due(self, record: FakeRecord) -> int:
        if self.stage.number == 0:
            return 0
        return int(dict(record.the_headers or ()).get("flux-due") or record.the_timestamp + 10_000)

    # ---- what may happen

    def step(self) -> None:
        rng = self.random
        actions = {
            self.poll: 3,
            self.take: 4,
            self.call: 14,
            self.turn: 3,
            self.write: 3,
            self.acknowledge: 4,
            self.settle: 2,
            self.look: 1,
            self.commit_ends: 2,
            self.assign: 1,
            self.revoke: 0.3,
            self.lose: 0.15,
        }
        [action] = rng.choices(list(actions), list(actions.values()))
        self.now += rng.choice((0.0, 0.001, 0.006, 0.3, 3.0))
        self.history.append(action.__name__)
        action()

    def assign(self) -> None:
        for partition in self.partitions:
            if partition in self.owned or (self.faults and self.random.random() < 0.3):
                continue
            position = self.group.get(partition)
            self.gens += 1
            start = 0 if position is None else position.offset
            restored = [] if position is None else read_metadata(position.offset, position.metadata) or []
            self.owned[partition] = Owned(self.gens, start, restored, start)
            self.engine.assigned({partition: position}, {partition: 0}, self.now)

    def poll(self) -> None:
        rng, batches = self.random, []
        self.polls += 1
        for partition, owned in self.owned.items():
            if owned.paused:
                continue
            for _ in range(rng.choice((1, 1, 2))):
                log = self.log[partition]
                first = owned.fetch
                if self.faults and owned.delivered and rng.random() < 0.15:
                    first = rng.choice(list(owned.delivered))
                here = [log[offset] for offset in log if offset >= first][: rng.choice((1, 3, 8, 25))]
                if not here:
                    continue
                for record in here:
                    offset = record.at
                    if offset not in owned.delivered:
                        owned.delivered[offset] = (self.due(record), self.polls)
                        if not owned.was_restored(offset):
                            owned.pending.add(offset)
                owned.fetch = max(owned.fetch, here[-1].at + 1)
                batches.append(Batch(partition, list(here)))
        self.engine.polled(PollResult(batches), self.now)

    def take(self) -> None:
        if len(self.callers) >= 3:
            return
        run = self.engine.take(self.random.random() < 0.7, self.now)
        if run is None:
            return
        assert not self.away, "calls begin while the cluster is away"
        if self.engine.call_limits.breaker.paused:
            assert run.limit == 1, f"{run.limit} records probe"
            assert self.probe is None, "a second record probes"
            self.probe = run
        caller = Caller(run, {partition: owned.gen for partition, owned in self.owned.items()})
        self.callers.append(caller)
        self._begin(caller)

    def call(self) -> None:
        """A caller's call ends, or it goes on to its next one."""
        if not self.callers:
            return
        caller = self.random.choice(self.callers)
        run = caller.run
        if caller.reported:
            self._go_on(caller)
            return
        index, message = run.index, message_at(run, run.index)
        place = partition, _ = TopicPartition(message.topic, message.partition), message.offset
        gen = caller.gens[partition]
        caller.reported, caller.well = True, False
        self.running.discard((place, gen))
        chance = self.random.random() if self.faults else 0.5 * self.random.random()
        if chance < 0.75:
            caller.well = True
            self.truth.add(place)
        elif chance < 0.85:
            entry = self.engine.produced(run, index, message)
            assert (entry is None) == (not self._current(partition, gen)), "a product of an old generation"
            if entry is not None:
                self.settling.append((entry, partition, gen))
        else:
            error: Exception = self.random.choice((ValueError("bad"), Retry(after=3), Reject("no")))
            if self.in_place and self.random.random() < 0.3:
                error = Pause()
            failure = Failure(error, verdict=self.policy.rules.verdict(error), at=self.now)
            assert failure.verdict is not None
            waits = failure.verdict.move is not Move.PAUSE and not self.policy.holds_key(failure.verdict)
            waits = waits and self.policy.pause_when is None
            if waits and self.random.random() < 0.7:
                run.note(failure, message)
                caller.noted = True
                return
            self._ends(place, gen, self.engine.failed(run, index, message, failure, self.now), run, error)

    def _ends(self, place: Place, gen: int, move: Move | None, run: Run | None, error: Exception) -> None:
        """A call has ended badly: its record is called again here, or moves."""
        partition, offset = place
        if move not in (Move.PAUSE, Move.HOLD):
            self._fails(place, gen)
        if move in (Move.PAUSE, Move.HOLD, Move.AGAIN) and self._current(partition, gen):
            self.begun[(partition, offset, gen)] -= 1
            self.owned[partition].pending.add(offset)
        if move is Move.PAUSE:
            self.engine.call_limits.breaker.pause(run, error, None, self.random.random(), self.now)
            self.engine.paused()
            self.probe = None if run is self.probe else self.probe

    def _go_on(self, caller: Caller) -> None:
        run = caller.run
        message = message_at(run, run.index)
        partition = TopicPartition(message.topic, message.partition)
        if caller.well and self._current(partition, caller.gens[partition]):
            self.owned[partition].done.add(message.offset)
        if caller.noted:
            self._fails((partition, message.offset), caller.gens[partition])
        caller.reported = caller.noted = False
        run.index += 1
        self._begin(caller)

    def _begin(self, caller: Caller) -> None:
        run = caller.run
        if run.index >= run.limit:
            self.callers.remove(caller)
            self.engine.finished(run, self.now)
            self.probe = None if run is self.probe else self.probe
            return
        assert run is self.probe or not self.engine.call_limits.breaker.paused, "a call begins during a pause"
        message = message_at(run, run.index)
        place = partition, offset = TopicPartition(message.topic, message.partition), message.offset
        gen = caller.gens[partition]
        assert self._current(partition, gen), f"{place} begins after its assignment is gone"
        owned = self.owned[partition]
        assert not owned.draining, f"{place} begins while it is given up"
        self.begun[(partition, offset, gen)] += 1
        assert self.begun[(partition, offset, gen)] == 1, f"{place} is called twice by one owner"
        assert offset in owned.pending, f"{place} is not to be called"
        due, polled = owned.delivered[offset]
        assert due <= self.now * 1000, f"{place} is called before it is due"
        owned.pending.discard(offset)
        key_queue = self._key_queue(place)
        if key_queue is not None:
            assert not self.kept[key_queue], f"{place} overtakes one that is kept"
            for other, its_gen in self.running:
                if other[0] == partition and its_gen == gen:
                    assert self._key_queue(other) != key_queue, f"{place} runs beside {other}"
            for other_offset in owned.pending:
                if self._key_queue((partition, other_offset)) == key_queue:
                    its_due, its_poll = owned.delivered[other_offset]
                    first = (its_due, other_offset) < (due, offset) and its_poll <= polled
                    assert not first, f"{place} overtakes {other_offset}"
        self.running.add((place, gen))
        self._check_names()

    def _check_names(self) -> None:
        if self.policy.concurrency_key is not None:
            names = Counter(offset % 3 for (_, offset), _ in self.running)
            assert max(names.values()) <= self.policy.concurrency_per_key, f"too many at once: {names}"

    def _fails(self, place: Place, gen: int) -> None:
        self.failed_in[place] = gen
        if self.stage.role is Role.DEAD:  # it stays where it is, and that is all
            self.truth.add(place)
            if self._current(place[0], gen):
                self.owned[place[0]].done.add(place[1])

    def settle(self) -> None:
        if not self.settling:
            return
        entry, partition, gen = self.settling.pop(self.random.randrange(len(self.settling)))
        place = (partition, entry.offset)
        if self.faults and self.random.random() < 0.3:
            error = ValueError("not delivered")
            self._ends(place, gen, self.engine.settled(entry, Failure(error), self.now), None, error)
            return
        self.truth.add(place)
        if self._current(partition, gen):
            self.owned[partition].done.add(entry.offset)
        self.engine.settled(entry, None, self.now)

    def look(self) -> None:
        for _ in range(self.random.choice((1, 2, 5))):
            self.now += CHECK_INTERVAL
            self.engine.checked(self.now)

    def write(self) -> None:
        for forward in self.engine.writes(self.now):
            place = partition, offset = forward.entry.assignment.partition, forward.entry.offset
            assert self._current(partition, self.failed_in[place]), f"{place}: a forward of an old generation"
            assert offset not in self.owned[partition].done, f"{place}: a forward of what is done"
            forward.forwarded_copy.producer_record(int(self.now * 1000), None)
            self.writing.append(forward)

    def acknowledge(self) -> None:
        if not self.writing:
            return
        forward = self.writing.pop(self.random.randrange(len(self.writing)))
        place = partition, offset = forward.entry.assignment.partition, forward.entry.offset
        current = self._current(partition, self.failed_in[place]) and forward.entry.assignment.phase.value != "gone"
        error = None
        if self.faults and self.random.random() < 0.4:
            error = self.random.choice((AWAY, AWAY, DENIED, TOO_LARGE, UNKNOWN))
        key_queue = self._key_queue(place)
        if current:
            self.away.discard(place)
        if error is None:
            self.truth.add(place)
            if current:
                self.owned[partition].done.add(offset)
                if key_queue is not None:
                    self.kept[key_queue].discard(offset)
            self.engine.written(forward, self.now)
            return
        self.engine.unwritten(forward, error, self.now)
        if current and forward.state is ForwardState.WAITING:
            self.away.add(place)
        if (
            current
            and forward.state is ForwardState.KEPT
            and key_queue is not None
            and not self.owned[partition].draining
        ):
            self.kept[key_queue].add(offset)

    def turn(self) -> None:
        turn = self.engine.turn(self.now)
        for partition in turn.pause:
            self.owned[partition].paused = True
        for partition in turn.resume:
            self.owned[partition].paused = False
        assert not turn.reset
        if turn.commit:
            assert self.committing is None or self.now - self.committing[2] >= 60, "two commits in flight"
            self._check_commit(turn.commit)
            error = AWAY if self.faults and self.random.random() < 0.3 else None
            if error is None or self.random.random() < 0.3:
                self.group.update(turn.commit)
            self.committing = (turn.commit, error, self.now)

    def commit_ends(self) -> None:
        if self.committing is not None:
            (positions, error, _), self.committing = self.committing, None
            self.engine.committed(positions, error, self.now)

    def revoke(self) -> None:
        rng = self.random
        leaving = [p for p in self.owned if rng.random() < 0.6]
        self.engine.revoking(leaving)
        for partition in leaving:
            self.owned[partition].draining = True
        for _ in range(rng.choice((0, 5, 60))):
            if self.engine.drained(leaving):
                break
            rng.choice((self.call, self.call, self.write, self.acknowledge, self.settle))()
        positions = self.engine.commit(self.now, leaving, at_once=True)
        if positions:
            self._check_commit(positions)
            error = AWAY if rng.random() < 0.3 else None
            if error is None:
                self.group.update(positions)
            self.engine.committed(positions, error, self.now)
            self.committing = None  # its answer is not waited for any more
        self.engine.revoked(leaving)
        self._gone(leaving)

    def lose(self) -> None:
        leaving = [p for p in self.owned if self.random.random() < 0.6]
        self.engine.lost(leaving)
        self._gone(leaving)

    def _gone(self, leaving: list[TopicPartition]) -> None:
        for partition in leaving:
            del self.owned[partition]
            self.away = {place for place in self.away if place[0] != partition}
            for key_queue in [key_queue for key_queue in self.kept if key_queue[0] == partition]:
                del self.kept[key_queue]

    # ---- what must hold

    def _check_commit(self, positions: dict[TopicPartition, CommittedOffset]) -> None:
        for partition, position in positions.items():
            owned = self.owned[partition]
            assert len(position.metadata) <= self.max_metadata
            ranges = read_metadata(position.offset, position.metadata) if position.metadata else []
            assert ranges is not None
            for offset in self.log[partition]:
                stored = offset < position.offset or any(start <= offset < end for start, end in ranges)
                known = offset < owned.start or owned.was_restored(offset) or offset in owned.done
                if stored:
                    assert known, f"{partition}@{offset} is committed and not done: {position.offset} {ranges}"
                    assert (partition, offset) in self.truth, f"{partition}@{offset} is committed and was never done"
                elif known and offset in owned.delivered:
                    assert self.small, f"{partition}@{offset} is done and not committed: {position.offset} {ranges}"

    def _current(self, partition: TopicPartition, gen: int) -> bool:
        return partition in self.owned and self.owned[partition].gen == gen

    def _key_queue(self, place: Place) -> tuple[TopicPartition, Any] | None:
        partition, offset = place
        if self.ordering == "none":
            return None
        if self.ordering == "partition":
            return (partition, None)
        key = self.log[partition][offset].the_key
        return None if key is None else (partition, key)

    # ---- the end: faults stop, and all must drain

    def drain(self) -> None:
        self.faults = False
        for _ in range(3_000):
            self.now += 0.4
            for action in (self.assign, self.turn, self.commit_ends, self.poll, self.take, self.write, self.look):
                action()
            for _ in range(8):
                self.call()
                self.acknowledge()
                self.settle()
            if self._at_end():
                break
        stuck = {p: sorted(owned.pending) for p, owned in self.owned.items()}
        assert self._at_end(), f"never ended: {stuck} {self.engine!r} {len(self.callers)} {self.group}"
        for partition, log in self.log.items():
            for offset in log:
                assert (partition, offset) in self.truth, f"{partition}@{offset} was lost"
            assert self.group[partition] == CommittedOffset(max(log) + 1)

    def _at_end(self) -> bool:
        return (
            self.engine.idle
            and not self.callers
            and all(self.owned[p].fetch > max(log) for p, log in self.log.items() if p in self.owned)
            and len(self.owned) == len(self.log)
        )

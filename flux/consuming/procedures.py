"""The order of effects, written once for threads and event loops: one turn of the poller, an assignment, a revocation,
and leaving the group.

Records get lost where two steps are in the wrong order, so each procedure says why its steps stand as they do:

- Pauses come before the poll, so that a poll brings nothing that there is no room for.
- A commit comes after the calls that it covers have ended and after their forwarded copies are acknowledged. The engine
  decides that; a procedure never computes an offset.
- On a revocation: no new calls, then the calls in flight end, then their offsets are committed, and only then are the
  partitions let go. If they were let go first, the new owner would start below calls that are still running.
- On leaving: the same for all partitions, with one deadline; what is left open is named, and the exit code says so.

A procedure is a generator: it yields effects, and the driver performs them. It reads and changes the engine only
between two effects, while the driver holds the lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from flux.consuming import effects as do
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.effects import Script
from flux.core.backoff import JITTER_STEPS
from flux.core.engine import Engine
from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.runs import Run
from flux.core.errors import BrokerError, Fault
from flux.core.ports import BEGINNING, CommittedOffset, TopicPartition
from flux.core.stage import Role

Clock = Callable[[], float]

_ASK = 10.0  # seconds for one question to the cluster
_ONCE = 1.0  # seconds for a commit that is not tried again
_PERMIT = 0.05  # seconds to rest at most for a permit, or for a run that others work, before the next poll
_AGAIN = 0.05  # seconds until a topic is polled again that is not known yet
_DENIED = (Fault.DENIED, Fault.LOGIN, Fault.FATAL)


def shift(coordinator: Coordinator, runtime: StageRuntime, mine: Callable[[], bool]) -> Script[None]:
    """Polling one stage, until it has left its group or the role is not `mine` any more. While calls are quick a poll
    is followed by the runs that it brought; when they are slow, or one is stuck, polling goes on beside them."""
    engine, now = runtime.engine, runtime.now_locked
    if engine.start_offsets.must_check:
        yield from _look(engine, lambda: mine() and coordinator.ending.stop_at is None)
    while mine():
        if coordinator.ending.stop_at is not None:
            yield from leave(engine, now, coordinator.ending.deadline)
            return
        yield from cycle(engine, now)
        while mine() and coordinator.ending.stop_at is None:
            if engine.dispatch_mode.slow:
                coordinator.driver.wake_locked(coordinator.ready_locked())
                break
            looked = now()
            run = coordinator.take_locked(runtime, polling=True)
            if run is None and engine.ready(looked):  # and not: since it looked
                run = yield from _stand_by(coordinator, runtime, mine)
            if run is None:
                break
            yield do.Begin(run)
            if engine.has_news:
                yield do.Write()
            while mine() and coordinator.ending.stop_at is None and engine.busy_with(run):
                yield do.Rest(_PERMIT, coordinator.facts)


def _stand_by(coordinator: Coordinator, runtime: StageRuntime, mine: Callable[[], bool]) -> Script[Run | None]:
    """Waits for its turn of a permit, up to the next poll. Whoever polls meanwhile is passed over, so it does not."""
    engine, now = runtime.engine, runtime.now_locked
    until = now() + _PERMIT
    runtime.stands_by = True
    try:
        while (left := until - now()) > 0 and mine() and coordinator.ending.stop_at is None:
            yield do.Rest(left, coordinator.facts)
            run = coordinator.take_locked(runtime, polling=True)
            if run is not None or engine.dispatch_mode.slow or not engine.ready(now()):
                return run
        return None
    finally:
        runtime.stands_by = False


def cycle(engine: Engine, now: Clock, longest: float = math.inf) -> Script[bool]:
    """One turn: pauses first, so that the poll brings nothing that is not wanted; the commit before the poll, which
    may wait, up to `longest` seconds. Gives whether records came."""
    turn = engine.turn(now())
    if turn.pause:
        yield do.PausePartitions(turn.pause)
    if turn.resume:
        yield do.ResumePartitions(turn.resume)
    for partition in turn.reset:
        yield from _reset(engine, partition, now)
    if turn.commit:
        yield do.StartCommit(turn.commit)
    yield do.Write()
    if not turn.poll:
        yield do.Rest(min(turn.timeout, longest))
        return False
    unknown = engine.topic_propagation.over(now())
    if unknown is not None:
        raise unknown
    try:
        polled = yield do.Poll(turn.poll, min(turn.timeout, longest))
    except BrokerError as error:
        if error.fault is not Fault.UNKNOWN_TOPIC:
            raise
        engine.topic_propagation.unknown(error, now())
        yield do.Rest(_AGAIN)
        return False
    engine.polled(polled, now())
    return bool(polled.batches)


def assign(engine: Engine, partitions: Sequence[TopicPartition], now: Clock) -> Script[dict[TopicPartition, int]]:
    """Finds where each partition starts. Without the group's positions nothing can start, so it asks for ever."""
    positions: dict[TopicPartition, CommittedOffset | None] = dict.fromkeys(partitions)
    chosen: dict[TopicPartition, CommittedOffset | None] = {}

    def ask() -> Script[None]:
        nonlocal positions, chosen
        positions = dict((yield do.Committed(partitions, _ASK)))
        chosen = yield from _choose(engine, positions)

    if partitions:
        yield from _insist(engine, ask, lambda: not engine.stopping)
    jitters = {}
    for partition in partitions:
        jitters[partition] = yield do.Draw(JITTER_STEPS - 1)
    return engine.assigned({**positions, **chosen}, jitters, now(), chosen)


def revoke(
    engine: Engine, partitions: Sequence[TopicPartition], now: Clock, longest: float, deadline: Clock
) -> Script[None]:
    """Nothing new, then what is in flight ends, then its positions, then the partitions are let go: each step makes
    the next one true. `longest`: seconds that the calls may take, one limit for all; `deadline`: when a stop gives
    them up, as for `leave`, which a rebalance may come into."""
    until = now() + min(engine.policy.drain_timeout, longest)
    engine.revoking(partitions)
    while not engine.drained(partitions) and now() < min(until, deadline()):
        yield do.Write()
        yield do.Rest(min(0.05, max(0.0, until - now())))
    positions = engine.commit(now(), partitions, at_once=True)
    if positions and not engine.uncommitted:
        try:
            yield do.Commit(positions, min(_ASK, max(1.0, deadline() - now())))
            engine.committed(positions, None, now())
        except BrokerError as error:
            engine.committed(positions, error, now())
    engine.revoked(partitions)
    yield do.Write()


def leave(engine: Engine, now: Clock, deadline: Clock) -> Script[None]:
    """Calls in flight end, positions are committed, the group is left. Polling goes on meanwhile, so that the group
    does not wait for this member. `deadline`: when calls are given up; it may be brought forward."""
    engine.stop()
    while not engine.quiet and now() < deadline():
        turn = engine.turn(now())
        if turn.pause:
            yield do.PausePartitions(turn.pause)
        yield do.Write()
        engine.polled((yield do.Poll(1, 0.01)), now())
        yield do.Rest(min(0.04, max(0.0, deadline() - now())))
    if engine.calls:
        yield do.Cancel()
    while positions := engine.commit(now(), at_once=True):
        owed = engine.must_commit(positions)
        try:
            yield do.Commit(positions, min(_ASK if owed else _ONCE, max(_ONCE, deadline() - now())))
            engine.committed(positions, None, now())
        except BrokerError as error:
            engine.committed(positions, error, now())
            if not owed:
                break
            if error.fault in _DENIED or now() >= deadline():
                engine.commit_abandoned(owed, error)
                break
            # A rebalance that others began leaves this member with an old generation until it has polled its way
            # through; if it has lost its partitions, that is when it hears of it, and there is nothing to commit.
            engine.polled((yield do.Poll(1, 0.01)), now())
            yield do.Rest(0.2)
    engine.left_group()
    yield do.Write()
    yield do.Close()


def _look(engine: Engine, wanted: Callable[[], bool]) -> Script[None]:
    """Where the group begins, if it does. Before it joins: see `core/engine/start_offsets.py`."""
    stage = engine.stage

    def ask() -> Script[None]:
        committed = yield do.GroupOffsets(stage.group, stage.topic, _ASK)
        engine.start_offsets.found(committed, (yield do.Marks(stage.topic, _ASK)))

    yield from _insist(engine, ask, wanted)


def _insist(engine: Engine, ask: Callable[[], Script[None]], wanted: Callable[[], bool]) -> Script[None]:
    """Asks for as long as the answer is `wanted`."""
    while wanted():
        try:
            yield from ask()
            return
        except BrokerError as error:
            if error.fault in _DENIED:
                raise
            text = f"positions of {engine.stage.group} cannot be had: {error}"
            engine.log(LogEvent(Level.WARNING, text, kind=("positions", error.fault)))
            yield do.Write()
            yield do.Rest(1.0)


def _reset(engine: Engine, partition: TopicPartition, now: Clock) -> Script[None]:
    """Where a partition out of range goes on. When the cluster does not say, the next turn asks again."""
    try:
        marks = (yield do.Marks(partition.topic, _ASK)).get(partition.partition)
    except BrokerError as error:
        engine.log(
            LogEvent(
                Level.WARNING,
                f"{partition} is out of range, and its watermarks cannot be had: {error}",
                partition,
                ("watermarks", error.fault),
            )
        )
        return
    if marks is not None:
        start = engine.reset(partition, marks, now())
        if start is not None:
            yield do.Seek(partition, start)


def _choose(
    engine: Engine, positions: dict[TopicPartition, CommittedOffset | None]
) -> Script[dict[TopicPartition, CommittedOffset | None]]:
    """Positions for partitions that have none and do not simply start with their oldest record."""
    missing = [partition for partition, position in positions.items() if position is None]
    stage, policy = engine.stage, engine.policy
    if not missing or stage.role is not Role.DEAD:
        starts = {partition: engine.start_offsets.of(partition) for partition in missing}
        return {partition: CommittedOffset(offset) for partition, offset in starts.items() if offset != BEGINNING}
    furthest: dict[TopicPartition, CommittedOffset | None] = {}
    for group in policy.stages.dead_groups():
        if group == stage.group:
            continue
        others = yield do.GroupOffsets(group, stage.topic, _ASK)
        for partition in missing:
            other, best = others.get(partition.partition), furthest.get(partition)
            if other is not None and (best is None or other.offset > best.offset):
                furthest[partition] = CommittedOffset(other.offset)
    return furthest

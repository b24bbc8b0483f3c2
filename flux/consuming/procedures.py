"""The order of effects, written once for threads and event loops: polling, an assignment, a revocation, and leaving
the group.

Records get lost if two steps are in the wrong order, so this is the reason for each order:

- Pauses come before the poll, so that a poll brings nothing that there is no room for.
- A commit comes after the calls that it covers have ended and after their forwarded copies are acknowledged. The engine
  decides that; a procedure never computes an offset.
- On a revocation: no new calls, then the calls in flight end, then their offsets are committed, and only then are the
  partitions released. If they were released first, the new owner would start below calls that are still running.
- On leaving: the same for all partitions, with one deadline. What is left open is logged, and sets the exit code.

A procedure is a generator: it yields effects, and the driver performs them. It reads and changes the engine only
between two effects, while the driver holds the lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from flux.consuming import effects as do
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.effects import Procedure
from flux.consuming.start_requests import (
    DENIED,
    REQUEST_TIMEOUT,
    TRANSACTION_REST,
    await_transaction,
    choose_offsets,
    count_partitions,
    find_start,
    read_keys,
    retry_until_answered,
)
from flux.core.backoff import JITTER_STEPS
from flux.core.engine import Engine
from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.runs import Run
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, TopicPartition

Clock = Callable[[], float]

_LAST_COMMIT_TIMEOUT = 1.0  # seconds for a commit that is not retried
_PERMIT_REST = 0.05  # longest wait in seconds, for a permit or for a run that others process, before the next poll
_UNKNOWN_TOPIC_REST = 0.05  # seconds until a topic that is not known yet is polled again


def poll_stage(coordinator: Coordinator, runtime: StageRuntime, mine: Callable[[], bool]) -> Procedure[None]:
    """Polls one stage until it has left its group or the polling role is not `mine` any more. While calls are quick,
    the runs of a poll follow it. If they are slow, or one is stuck, polling continues beside them."""
    engine, now = runtime.engine, runtime.now_locked
    if engine.start_offsets.must_check:
        yield from find_start(engine, lambda: mine() and coordinator.ending.stop_at is None)
    while mine():
        if coordinator.ending.stop_at is not None:
            yield from leave(engine, now, coordinator.ending.deadline)
            return
        yield from cycle(engine, now)
        while mine() and coordinator.ending.stop_at is None:
            if engine.dispatch_mode.slow:
                coordinator.driver.wake_locked(coordinator.ready_locked())
                break
            checked_at = now()
            run = coordinator.take_locked(runtime, polling=True)
            if run is None and engine.ready(checked_at):  # became ready after that check, or waits for a permit
                run = yield from _stand_by(coordinator, runtime, mine)
            if run is None:
                break
            yield do.Begin(run)
            if engine.has_news:
                yield do.Write()
            while mine() and coordinator.ending.stop_at is None and engine.busy_with(run):
                yield do.Rest(_PERMIT_REST, coordinator.facts)


def _stand_by(coordinator: Coordinator, runtime: StageRuntime, mine: Callable[[], bool]) -> Procedure[Run | None]:
    """Waits for a permit until the next poll. A stage that polls is not served, so it does not poll meanwhile."""
    engine, now = runtime.engine, runtime.now_locked
    until = now() + _PERMIT_REST
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


def cycle(engine: Engine, now: Clock, longest: float = math.inf) -> Procedure[bool]:
    """One turn. Pauses come first, so that the poll brings no unwanted records; the commit comes before the poll, which
    may wait up to `longest` seconds. Returns whether there were records."""
    turn = engine.turn(now())
    if turn.pause:
        yield do.PausePartitions(turn.pause)
    if turn.resume:
        yield do.ResumePartitions(turn.resume)
    for partition in turn.reset:
        yield from _reset(engine, partition, now)
    if turn.commit:
        yield do.StartCommit(turn.commit)
    if turn.transact:
        yield do.Transact()
    yield do.Write()
    timeout = min(turn.timeout, longest)
    if turn.patient:
        yield do.Rest(timeout)
        timeout = 0.0
    if not turn.poll:
        return False
    unknown = engine.topic_propagation.over(now())
    if unknown is not None:
        raise unknown
    try:
        polled = yield do.Poll(turn.poll, timeout)
    except BrokerError as error:
        if error.fault is not Fault.UNKNOWN_TOPIC:
            raise
        engine.topic_propagation.unknown(error, now())
        yield do.Rest(_UNKNOWN_TOPIC_REST)
        return False
    engine.polled(polled, now())
    return bool(polled.batches)


def assign(engine: Engine, partitions: Sequence[TopicPartition], now: Clock) -> Procedure[dict[TopicPartition, int]]:
    """Finds each partition's start offset. It retries for ever, because there is no safe default."""
    offsets: dict[TopicPartition, CommittedOffset | None] = dict.fromkeys(partitions)
    chosen: dict[TopicPartition, CommittedOffset | None] = {}

    def request() -> Procedure[None]:
        nonlocal offsets, chosen
        offsets = dict((yield do.Committed(partitions, REQUEST_TIMEOUT)))
        chosen = yield from choose_offsets(engine, offsets)

    if partitions:
        yield from await_transaction(engine)
        yield from retry_until_answered(engine, request, lambda: not engine.stopping)
    if engine.call_limits.share is not None:
        yield from retry_until_answered(engine, lambda: count_partitions(engine), lambda: not engine.stopping)
    if partitions and engine.order is not None:
        yield from read_keys(engine, now)
    jitters = {}
    for partition in partitions:
        jitters[partition] = yield do.Draw(JITTER_STEPS - 1)
    return engine.assigned({**offsets, **chosen}, jitters, now(), chosen)


def revoke(
    engine: Engine, partitions: Sequence[TopicPartition], now: Clock, longest: float, deadline: Clock
) -> Procedure[None]:
    """No new calls, then the calls in flight end, then the commit, then the partitions are released: each step needs
    the one before. `longest`: seconds that all calls together may take; `deadline`: when a stop abandons them, as in
    `leave`, because a rebalance may happen during a stop."""
    until = now() + min(engine.policy.drain_timeout, longest)
    engine.revoking(partitions)
    in_transactions = engine.policy.exactly_once
    while not engine.drained(partitions) and now() < min(until, deadline()):
        yield do.Write()
        if in_transactions:
            yield do.Transact()
        yield do.Rest(min(0.05, max(0.0, until - now())))
    offsets = engine.commit(now(), partitions, at_once=True)
    until = now() + min(REQUEST_TIMEOUT, max(1.0, deadline() - now()))
    while in_transactions and offsets and not engine.uncommitted and now() < until:
        yield do.Transact()
        yield do.Rest(TRANSACTION_REST)
        offsets = engine.commit(now(), partitions, at_once=True)
    if offsets and not engine.uncommitted and not in_transactions:
        try:
            yield do.Commit(offsets, max(1.0, until - now()))
            engine.committed(offsets, None, now())
        except BrokerError as error:
            engine.committed(offsets, error, now())
    engine.revoked(partitions)
    yield do.Write()


def leave(engine: Engine, now: Clock, deadline: Clock) -> Procedure[None]:
    """Calls in flight end, offsets are committed, the group is left. Polling continues meanwhile, so that the group
    does not wait for this member. `deadline`: when calls are abandoned; it may become earlier."""
    engine.stop()
    while not engine.quiet and now() < deadline():
        turn = engine.turn(now())
        if turn.pause:
            yield do.PausePartitions(turn.pause)
        if turn.transact:
            yield do.Transact()
        yield do.Write()
        engine.polled((yield do.Poll(1, 0.01)), now())
        yield do.Rest(min(0.04, max(0.0, deadline() - now())))
    if engine.calls:
        yield do.Cancel()
    if engine.policy.exactly_once:
        yield from _leave_transactions(engine, now, deadline)
    while not engine.policy.exactly_once and (offsets := engine.commit(now(), at_once=True)):
        owed = engine.must_commit(offsets)
        try:
            yield do.Commit(
                offsets,
                min(REQUEST_TIMEOUT if owed else _LAST_COMMIT_TIMEOUT, max(_LAST_COMMIT_TIMEOUT, deadline() - now())),
            )
            engine.committed(offsets, None, now())
        except BrokerError as error:
            engine.committed(offsets, error, now())
            if not owed:
                break
            if error.fault in DENIED or now() >= deadline():
                engine.commit_abandoned(owed, error)
                break
            # During a rebalance this member has an old generation until its polls have completed it. If it has lost its
            # partitions, these polls report that, and nothing is left to commit.
            engine.polled((yield do.Poll(1, 0.01)), now())
            yield do.Rest(0.2)
    engine.left_group()
    yield do.Write()
    yield do.Close()


def _leave_transactions(engine: Engine, now: Clock, deadline: Clock) -> Procedure[None]:
    """The last transactions of a stage that leaves. Polling continues, as in `leave`."""
    latest = now() + _LAST_COMMIT_TIMEOUT
    while offsets := engine.commit(now(), at_once=True):
        owed = engine.must_commit(offsets)
        if now() >= (max(deadline(), latest) if owed else latest):
            if owed:
                why = BrokerError("no transaction could be committed in time", Fault.UNAVAILABLE)
                engine.commit_abandoned(owed, why)
            return
        yield do.Transact()
        engine.polled((yield do.Poll(1, 0.01)), now())
        yield do.Rest(TRANSACTION_REST)


def _reset(engine: Engine, partition: TopicPartition, now: Clock) -> Procedure[None]:
    """Seeks a partition that is out of range. If the cluster does not answer, the next turn tries again."""
    try:
        marks = (yield do.Marks(partition.topic, REQUEST_TIMEOUT)).get(partition.partition)
    except BrokerError as error:
        engine.log(
            LogEvent(
                Level.WARNING,
                f"{partition} is out of range, and its watermarks cannot be read: {error}",
                partition,
                ("watermarks", error.fault),
            )
        )
        return
    if marks is not None:
        start = engine.reset(partition, marks, now())
        if start is not None:
            yield do.Seek(partition, start)

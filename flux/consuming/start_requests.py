"""What a stage asks the cluster before its first call: where to start, and what others have written. Each request is
repeated until it is answered, because no default is safe.
"""

from __future__ import annotations

from collections.abc import Callable

from flux.consuming import effects as do
from flux.consuming.effects import Procedure
from flux.core.engine import Engine
from flux.core.engine.commands import Level, LogEvent
from flux.core.errors import BrokerError, Fault
from flux.core.ports import BEGINNING, CommittedOffset, TopicPartition
from flux.core.stage import Role

Clock = Callable[[], float]

REQUEST_TIMEOUT = 10.0
"""Seconds for one request to the cluster."""
TRANSACTION_REST = 0.02
"""Longest wait in seconds for a transaction, before the next look at it."""
DENIED = (Fault.DENIED, Fault.LOGIN, Fault.FATAL)


def find_start(engine: Engine, wanted: Callable[[], bool]) -> Procedure[None]:
    """Finds where a new group starts, before it joins: see `core/engine/start_offsets.py`."""
    stage = engine.stage

    def request() -> Procedure[None]:
        committed = yield do.GroupOffsets(stage.group, stage.topic, REQUEST_TIMEOUT)
        engine.start_offsets.found(committed, (yield do.Marks(stage.topic, REQUEST_TIMEOUT)))

    yield from retry_until_answered(engine, request, wanted)


def retry_until_answered(
    engine: Engine, request: Callable[[], Procedure[None]], wanted: Callable[[], bool]
) -> Procedure[None]:
    """Repeats a request until it succeeds, or is not `wanted` any more."""
    while wanted():
        try:
            yield from request()
            return
        except BrokerError as error:
            if error.fault in DENIED:
                raise
            text = f"{engine.stage.group}: no calls before the cluster answers: {error}"
            failed, _, _ = str(error).partition(":")
            engine.log(LogEvent(Level.WARNING, text, kind=("start", failed)))
            yield do.Write()
            yield do.Rest(1.0)


def await_transaction(engine: Engine) -> Procedure[None]:
    """Waits for the end of the transaction that is being written. Partitions may be lost and come back while their
    offsets are on their way to the group: brokers since Kafka 4.3 accept them then, as the member has kept the
    partitions (KIP-1251), and who read committed offsets before would call records again that are done."""
    sealed = engine.transactions.sealed
    while sealed is not None and engine.transactions.sealed is sealed and not engine.stopping:
        yield do.Rest(TRANSACTION_REST)


def count_partitions(engine: Engine) -> Procedure[None]:
    """This member's share of the group's rate depends on how many partitions there are."""
    stage, share = engine.stage, engine.call_limits.share
    marks = yield do.Marks(stage.topic, REQUEST_TIMEOUT)
    if share is not None:
        share.counted(stage.number, len(marks))


def choose_offsets(
    engine: Engine, offsets: dict[TopicPartition, CommittedOffset | None]
) -> Procedure[dict[TopicPartition, CommittedOffset | None]]:
    """Positions for partitions that have none and do not simply start with their oldest record."""
    missing = [partition for partition, committed in offsets.items() if committed is None]
    stage, policy = engine.stage, engine.policy
    if not missing or stage.role is not Role.DEAD:
        starts = {partition: engine.start_offsets.of(partition) for partition in missing}
        return {partition: CommittedOffset(offset) for partition, offset in starts.items() if offset != BEGINNING}
    furthest: dict[TopicPartition, CommittedOffset | None] = {}
    for group in policy.stages.dead_groups():
        if group == stage.group:
            continue
        others = yield do.GroupOffsets(group, stage.topic, REQUEST_TIMEOUT)
        for partition in missing:
            other, best = others.get(partition.partition), furthest.get(partition)
            if other is not None and (best is None or other.offset > best.offset):
                furthest[partition] = CommittedOffset(other.offset)
    return furthest


def read_keys(engine: Engine, now: Clock) -> Procedure[None]:
    """Reads what former owners of partitions have written to the topic of keys, before the first call."""

    keys = engine.policy.stages.keys_topic

    def request() -> Procedure[None]:
        position = yield do.ReadKeys(REQUEST_TIMEOUT)
        if position is None:
            raise BrokerError(f"topic {keys} is not read to its end yet", Fault.UNAVAILABLE)
        assert engine.order is not None
        engine.order.read_to(position, now())

    yield from retry_until_answered(engine, request, lambda: not engine.stopping)

"""Where a record is in an engine, for an answer to a command that skips it. Needs the lock of the engine's
coordinator."""

from __future__ import annotations

import enum

from flux.core.engine import Engine
from flux.core.monitoring.snapshot import place_of
from flux.core.ports import TopicPartition


class Whereabouts(enum.Enum):
    """The record is …"""

    ELSEWHERE = "its partition is not assigned to this process"
    DONE = "it is done already"
    CALLED = "its call is running"
    ENDED = "its call has ended"
    AHEAD = "it is not called yet"


def whereabouts(engine: Engine, partition: int, offset: int) -> Whereabouts:
    done = engine.done_at(TopicPartition(engine.stage.topic, partition), offset)
    if done is None:
        return Whereabouts.ELSEWHERE
    if done:
        return Whereabouts.DONE
    for run in engine.running:
        index = run.index
        called = range(run.calls) if run.batched else (index,) if index < run.limit else ()
        if any(place_of(run, each)[:2] == (partition, offset) for each in called):
            return Whereabouts.CALLED
        if not run.batched and any(place_of(run, i)[:2] == (partition, offset) for i in range(run.marked, index)):
            return Whereabouts.ENDED
    for entry, _ in engine.open():
        if (entry.assignment.partition.partition, entry.offset) == (partition, offset):
            return Whereabouts.AHEAD if entry.waits else Whereabouts.ENDED
    return Whereabouts.AHEAD

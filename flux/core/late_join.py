"""Which stages need not be members of their groups yet, because their topics are empty.

A member costs a client: with librdkafka four threads, eight descriptors and two connections, and as many requests of
the brokers. The retry topics of the later stages are mostly empty, and their records wait long: they can be found in
time by looking now and then.
"""

from __future__ import annotations

from collections.abc import Mapping

from flux.core.policy import Policy
from flux.core.ports import Watermarks
from flux.core.stage import Role, Stage

SHORTEST_WAIT = 15.0
"""Seconds. To form a group takes some; a stage that waits less might be late."""
_LOOKS = 4
"""In the shortest wait of a stage."""
_LONGEST_INTERVAL = 30.0


def interval(policy: Policy, stage: Stage) -> float | None:
    """Seconds between two looks at the stage's topic before it has joined; None: it joins at the start. The first retry
    stage does, because `Task.enqueue` writes to it with any delay."""
    if stage.role is not Role.RETRY or stage.number < 2:
        return None
    wait = policy.waits.seconds(stage.number, 0)
    return min(wait / _LOOKS, _LONGEST_INTERVAL) if wait >= SHORTEST_WAIT else None


def is_empty(marks: Mapping[int, Watermarks]) -> bool:
    """Whether a topic has no records, read or not. Records that the group has read call for a member too: Kafka deletes
    the committed offsets of a group that has had none for `offsets.retention.minutes`, and they would be read again."""
    return all(mark.low == mark.high for mark in marks.values())

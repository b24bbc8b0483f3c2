"""Which stages need not be members of their groups yet, because their topics have nothing to read.

A member costs a client: with librdkafka four threads, eight descriptors and two connections, and as many requests of
the brokers. Most retry topics are empty nearly always. Those of the later stages are long empty, and their records wait
long: they can be found in time by looking now and then.
"""

from __future__ import annotations

from collections.abc import Mapping

from flux.core.policy import Policy
from flux.core.ports import CommittedOffset, Watermarks
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


def is_empty(committed: Mapping[int, CommittedOffset], marks: Mapping[int, Watermarks]) -> bool:
    """Whether the group has nothing to read. Only what is certain counts: a committed offset beyond the end, of a topic
    that was deleted and made again, is for a member to set right."""
    return all(
        committed[partition].offset == mark.high if partition in committed else mark.low == mark.high
        for partition, mark in marks.items()
    )

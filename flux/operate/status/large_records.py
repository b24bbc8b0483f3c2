"""Records that hold a position and are larger than what the next topic takes: their copies may not fit, compressed."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from flux.core.engine.forwarding import way_out
from flux.core.errors import Fault
from flux.core.ports import TopicPartition
from flux.operate.status.status import Look, StageLook

STANDS = 60.0
"""Seconds that a record could have been worked for, before its size is suspected."""


@attrs.frozen
class Large:
    """`size`: its bytes, uncompressed; `takes`: those of a batch that `target`, the next topic, takes; `seconds`: for
    how long it could have been worked."""

    at: TopicPartition
    offset: int
    size: int
    target: str
    takes: int
    seconds: float

    @property
    def problem(self) -> str:
        return f"it has {self.size:,} bytes, and {self.target} takes {self.takes:,}: its copy may not fit, compressed"

    @property
    def remedy(self) -> str:
        return way_out(Fault.TOO_LARGE, self.target)


def large_at(found: Look, each: StageLook, number: int) -> Large | None:
    """The one that a partition's position is at, if it is that large and has stood for long."""
    head = each.heads.get(number)
    if head is None or each.takes is None or head.size <= each.takes or head.waits(found.now_ms):
        return None
    seconds = head.since(found.now_ms)
    if seconds is None or seconds < STANDS:
        return None
    return Large(TopicPartition(each.stage.topic, number), head.offset, head.size, each.after, each.takes, seconds)


def large_in(found: Look) -> Iterator[Large]:
    """All of a task's."""
    for each in found.stages:
        for number in each.heads:
            one = large_at(found, each, number)
            if one is not None:
                yield one

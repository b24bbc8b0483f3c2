"""What holds positions back, by what the cluster, the processes and the looks before say: the longest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from flux.core.engine.forwarding import way_out
from flux.core.errors import Fault
from flux.core.ports import TopicPartition
from flux.operate.status.progress import Progress
from flux.operate.status.reports import running
from flux.operate.status.status import Hold, Look, StageLook

LONG = 5.0
"""Seconds: a call, or a position that does not move, is not named before."""

Standing = Mapping[TopicPartition, tuple[int, float]]
"""Where positions were found first: the offset of the record that they wait for, and when (seconds since the epoch)."""


def standing(found: Look, before: Standing) -> Standing:
    """Brought up to date by a look."""
    now: dict[TopicPartition, tuple[int, float]] = {}
    for each in found.stages:
        for number, head in each.heads.items():
            at = TopicPartition(each.stage.topic, number)
            offset, since = before.get(at, (-1, 0.0))
            now[at] = (head.offset, since) if offset == head.offset else (head.offset, found.at)
    return now


def holds(found: Look, stood: Standing) -> list[Hold]:
    """`stood`: by this look and those before it."""
    named = [
        hold
        for each in found.stages
        for number, head in each.heads.items()
        if not head.waits(found.now_ms) and (hold := _hold(found, each, number, stood)) is not None
    ]
    return sorted(named, key=lambda hold: -(hold.seconds or 0.0))


def _hold(found: Look, each: StageLook, number: int, stood: Standing) -> Hold | None:
    head, stage = each.heads[number], each.stage
    progress, large = Progress.of(each.positions.get(number)), large_at(found, each, number)
    about = "" if large is None else f"; {large.problem}: {large.remedy}"
    behind = each.behind(number) - progress.done_above - 1
    told = running(found.reports or (), stage, number, head.offset)
    if told is not None and (told.seconds >= LONG or progress.done_above):
        return Hold(stage, number, head, told.what_for, told.seconds, behind, told.process)
    if not any((stage.topic, number) in member.partitions for member in each.members):
        who = "has no members" if not each.members else "has no member with this partition"
        return Hold(stage, number, head, f"group {stage.group} {who}{about}", head.since(found.now_ms), behind)
    offset, since = stood.get(TopicPartition(stage.topic, number), (head.offset, found.at))
    stands = found.at - since if offset == head.offset else 0.0
    if head.due is not None:
        stands = min(stands, found.at - head.due / 1000)  # before that it waited, as it should
    if progress.done_above:
        why = (
            f"{progress.done_above:,} behind it are done"
            + ("" if found.reports else "; its call may be running")
            + about
        )
        return Hold(stage, number, head, why, max(stands, 0.0) or head.since(found.now_ms), behind)
    if stands >= LONG and told is None:
        return Hold(stage, number, head, f"the position does not move{about}", stands, behind)
    if large is not None and told is None:
        return Hold(stage, number, head, f"{large.problem}: {large.remedy}", large.seconds, behind)
    return None


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

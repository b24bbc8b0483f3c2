"""What holds positions back, by what the cluster, the processes and the looks before say: the longest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from flux.core.engine.forwarding import way_out
from flux.core.errors import Fault
from flux.core.ports import TopicPartition
from flux.operate.status.progress import Progress
from flux.operate.status.reports import find_reported
from flux.operate.status.status import Blocker, StageStatus, TaskStatus

LONG = 5.0
"""Seconds: a call, or a position that does not move, is not named before."""

StuckSince = Mapping[TopicPartition, tuple[int, float]]
"""Where positions were found first: the offset of the record that they wait for, and when (seconds since the epoch)."""


def update_stuck(found: TaskStatus, before: StuckSince) -> StuckSince:
    """Brought up to date by a look."""
    now: dict[TopicPartition, tuple[int, float]] = {}
    for each in found.stages:
        for number, oldest in each.oldest_unfinished.items():
            at = TopicPartition(each.stage.topic, number)
            offset, since = before.get(at, (-1, 0.0))
            now[at] = (oldest.offset, since) if offset == oldest.offset else (oldest.offset, found.at)
    return now


def blockers_of(found: TaskStatus, stuck_since: StuckSince) -> list[Blocker]:
    """`stuck_since`: by this look and those before it."""
    named = [
        blocker
        for each in found.stages
        for number, oldest in each.oldest_unfinished.items()
        if not oldest.waits(found.now_ms) and (blocker := _blocker(found, each, number, stuck_since)) is not None
    ]
    return sorted(named, key=lambda blocker: -(blocker.seconds or 0.0))


def _blocker(found: TaskStatus, each: StageStatus, number: int, stuck_since: StuckSince) -> Blocker | None:
    oldest, stage = each.oldest_unfinished[number], each.stage
    progress, large = Progress.of(each.positions.get(number)), large_record_at(found, each, number)
    about = "" if large is None else f"; {large.problem}: {large.remedy}"
    behind = each.behind(number) - progress.done_above - 1
    told = find_reported(found.reports or (), stage, number, oldest.offset)
    if told is not None and (told.seconds >= LONG or progress.done_above):
        return Blocker(stage, number, oldest, told.what_for, told.seconds, behind, told.process)
    if not any((stage.topic, number) in member.partitions for member in each.members):
        who = "has no members" if not each.members else "has no member with this partition"
        return Blocker(stage, number, oldest, f"group {stage.group} {who}{about}", oldest.since(found.now_ms), behind)
    offset, since = stuck_since.get(TopicPartition(stage.topic, number), (oldest.offset, found.at))
    stands = found.at - since if offset == oldest.offset else 0.0
    if oldest.due is not None:
        stands = min(stands, found.at - oldest.due / 1000)  # before that it waited, as it should
    if progress.done_above:
        why = (
            f"{progress.done_above:,} behind it are done"
            + ("" if found.reports else "; its call may be running")
            + about
        )
        return Blocker(stage, number, oldest, why, max(stands, 0.0) or oldest.since(found.now_ms), behind)
    if stands >= LONG and told is None:
        return Blocker(stage, number, oldest, f"the position does not move{about}", stands, behind)
    if large is not None and told is None:
        return Blocker(stage, number, oldest, f"{large.problem}: {large.remedy}", large.seconds, behind)
    return None


STANDS = 60.0
"""Seconds that a record could have been worked for, before its size is suspected."""


@attrs.frozen
class LargeRecord:
    """`size`: uncompressed bytes; `max_bytes`: the largest batch that `target`, the next topic, accepts; `seconds`:
    since the record was written or due."""

    at: TopicPartition
    offset: int
    size: int
    target: str
    max_bytes: int
    seconds: float

    @property
    def problem(self) -> str:
        return (
            f"it has {self.size:,} bytes, and {self.target} takes {self.max_bytes:,}: its copy may not fit, compressed"
        )

    @property
    def remedy(self) -> str:
        return way_out(Fault.TOO_LARGE, self.target)


def large_record_at(found: TaskStatus, each: StageStatus, number: int) -> LargeRecord | None:
    """The one that a partition's position is at, if it is that large and has stood for long."""
    oldest = each.oldest_unfinished.get(number)
    if oldest is None or each.max_bytes is None or oldest.size <= each.max_bytes or oldest.waits(found.now_ms):
        return None
    seconds = oldest.since(found.now_ms)
    if seconds is None or seconds < STANDS:
        return None
    return LargeRecord(
        TopicPartition(each.stage.topic, number), oldest.offset, oldest.size, each.after, each.max_bytes, seconds
    )


def large_records_in(found: TaskStatus) -> Iterator[LargeRecord]:
    """All of a task's."""
    for each in found.stages:
        for number in each.oldest_unfinished:
            one = large_record_at(found, each, number)
            if one is not None:
                yield one

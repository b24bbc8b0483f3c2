"""Which records block committed offsets, and why: by the cluster, the workers' reports and earlier snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from flux.core.engine.forwarding import remedy_or_skip
from flux.core.errors import Fault
from flux.core.ports import TopicPartition
from flux.operate.formatting import many
from flux.operate.status.progress import Progress
from flux.operate.status.reports import find_reported
from flux.operate.status.task_status import Blocker, StageStatus, TaskStatus

LONG = 5.0
"""Seconds for which a record blocks a committed offset before it counts as a blocker: records that are processed in
parallel are often done out of order for a moment."""

StuckSince = Mapping[TopicPartition, tuple[int, float]]
"""By partition: the oldest unfinished offset, and when it was seen there first (seconds since the epoch)."""


def update_stuck(found: TaskStatus, before: StuckSince) -> StuckSince:
    """`before`, brought up to date by a newer snapshot."""
    now: dict[TopicPartition, tuple[int, float]] = {}
    for each in found.stages:
        for number, oldest in each.oldest_unfinished.items():
            at = TopicPartition(each.stage.topic, number)
            offset, since = before.get(at, (-1, 0.0))
            now[at] = (oldest.offset, since) if offset == oldest.offset else (oldest.offset, found.at)
    return now


def suspects_of(found: TaskStatus) -> set[tuple[TopicPartition, int]]:
    """The oldest unfinished records behind which others are done, and of which no worker reports anything: whether they
    are blockers, only a later snapshot shows."""
    return {
        (TopicPartition(each.stage.topic, number), oldest.offset)
        for each in found.stages
        for number, oldest in each.oldest_unfinished.items()
        if not oldest.waits(found.now_ms)
        and each.done_above(number)
        and find_reported(found.reports or (), each.stage, number, oldest.offset) is None
    }


def blockers_of(found: TaskStatus, stuck_since: StuckSince) -> list[Blocker]:
    """The longest first. `stuck_since`: by this snapshot and the earlier ones."""
    named = [
        blocker
        for each in found.stages
        for number, oldest in each.oldest_unfinished.items()
        if not oldest.waits(found.now_ms) and (blocker := _blocker(found, each, number, stuck_since)) is not None
    ]
    return sorted(named, key=lambda blocker: -(blocker.seconds or 0.0))


def _blocker(found: TaskStatus, each: StageStatus, number: int, stuck_since: StuckSince) -> Blocker | None:
    oldest, stage = each.oldest_unfinished[number], each.stage
    progress, large = Progress.of(each.committed.get(number)), large_record_at(found, each, number)
    hint = "" if large is None else f"; {large.problem}: {large.remedy}"
    behind = each.unfinished_of(number) - 1
    reported = find_reported(found.reports or (), stage, number, oldest.offset)
    if reported is not None:
        if reported.seconds < LONG:
            return None
        return Blocker(stage, number, oldest, reported.reason, reported.seconds, behind, reported.process)
    if not any((stage.topic, number) in member.partitions for member in each.members):
        who = "has no members" if not each.members else "has no member with this partition"
        waits = oldest.since(found.now_ms)
        if waits is not None and waits < LONG:
            return None
        return Blocker(stage, number, oldest, f"group {stage.group} {who}{hint}", waits, behind)
    offset, since = stuck_since.get(TopicPartition(stage.topic, number), (oldest.offset, found.at))
    stuck = found.at - since if offset == oldest.offset else 0.0
    if oldest.due is not None:
        stuck = min(stuck, found.at - oldest.due / 1000)  # until then it waited for its due time
    if stuck >= LONG and progress.done_above:
        why = (
            f"{many(each.done_above(number), 'later record')} done"
            + ("" if found.reports else "; its call may be running")
            + hint
        )
        return Blocker(stage, number, oldest, why, stuck, behind)
    if stuck >= LONG:
        return Blocker(stage, number, oldest, f"the committed offset does not move{hint}", stuck, behind)
    if large is not None:
        return Blocker(stage, number, oldest, f"{large.problem}: {large.remedy}", large.seconds, behind)
    return None


STUCK = 60.0
"""Seconds after which an unfinished record's size is suspected."""


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
        return f"it has {self.size:,} bytes, and {self.target} takes {self.max_bytes:,}: its copy may not fit"

    @property
    def remedy(self) -> str:
        return remedy_or_skip(Fault.TOO_LARGE, self.target)


def large_record_at(found: TaskStatus, each: StageStatus, number: int) -> LargeRecord | None:
    """The partition's oldest unfinished record, if it is larger than the next topic takes and stuck."""
    oldest = each.oldest_unfinished.get(number)
    if oldest is None or each.max_bytes is None or oldest.size <= each.max_bytes or oldest.waits(found.now_ms):
        return None
    seconds = oldest.since(found.now_ms)
    if seconds is None or seconds < STUCK:
        return None
    return LargeRecord(
        TopicPartition(each.stage.topic, number), oldest.offset, oldest.size, each.after, each.max_bytes, seconds
    )


def large_records_in(found: TaskStatus) -> Iterator[LargeRecord]:
    """All of them, of a task."""
    for each in found.stages:
        for number in each.oldest_unfinished:
            one = large_record_at(found, each, number)
            if one is not None:
                yield one

"""How far a group is in one partition: its committed offset, and the ranges done above it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.engine.crashes import ALONE_AFTER, Mark
from flux.core.engine.offset_tracker import OffsetTracker, read_mark, read_metadata
from flux.core.monitoring.report import StageReport
from flux.core.ports import AdminPort, CommittedOffset, GroupMember, TopicPartition, Watermarks
from flux.core.stage import Stage
from flux.operate.formatting import many


@attrs.frozen
class Progress:
    """`committed`: the committed offset, None where nothing is committed. `done`: half-open ranges above it, in
    order."""

    committed: int | None = None
    done: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, stored: CommittedOffset | None) -> Progress:
        """Ignores metadata that is damaged or not flux's, as a worker does."""
        if stored is None:
            return cls()
        return cls(stored.offset, tuple(read_metadata(stored.offset, stored.metadata) or ()))

    def has(self, offset: int) -> bool:
        """Whether the record there is done: its call returned, or its forwarded copy was acknowledged."""
        if self.committed is None:
            return False
        return offset < self.committed or any(start <= offset < end for start, end in self.done)

    @property
    def done_above(self) -> int:
        """Offsets done above the committed offset."""
        return sum(end - start for start, end in self.done)


@attrs.frozen
class PartitionCrashes:
    """Processes in a row that have vanished while they worked on a partition, as its last commit says."""

    at: TopicPartition
    mark: Mark

    @property
    def text(self) -> str:
        crashes, alone, until, rests = self.mark
        known = [many(crashes, "crash", "crashes")]
        if until is not None:
            how = "alone" if crashes >= ALONE_AFTER else "in windows"
            known.append(f"records below offset {until} are called {how}")
        if alone is not None:
            how = "was the only call during the last one" if rests else "is called alone now"
            known.append(f"the record at offset {alone} {how}")
        return ": ".join(filter(None, (known[0], "; ".join(known[1:]))))


def crashes_of(stage: Stage, committed: Mapping[int, CommittedOffset]) -> list[PartitionCrashes]:
    """Of the partitions that have any."""
    marks = {number: read_mark(*stored) for number, stored in sorted(committed.items())}
    return [
        PartitionCrashes(TopicPartition(stage.topic, number), mark)
        for number, mark in marks.items()
        if mark is not None and mark.crashes
    ]


def committed_after(stored: CommittedOffset | None, offset: int, low: int, max_metadata: int) -> CommittedOffset | None:
    """What to commit so that the record at `offset` is done too. `low`: the oldest offset of the partition. None: the
    metadata would be longer than `max_metadata` characters, and records that are done would be called again."""
    known = Progress.of(stored)
    tracker = OffsetTracker(max(low, known.committed or 0), known.done, max_metadata)
    tracker.done(offset, offset + 1)
    new = CommittedOffset(tracker.committable, tracker.metadata())
    return new if Progress.of(new).done == tuple(tracker.ranges()) else None


def lag(committed: Mapping[int, CommittedOffset], watermarks: Mapping[int, Watermarks]) -> int:
    """Offsets from the committed ones to the ends, without those that are deleted."""
    total = 0
    for number, mark in watermarks.items():
        stored = committed.get(number)
        start = mark.low if stored is None else max(stored.offset, mark.low)
        total += max(0, mark.high - start)
    return total


def uncommitted(
    committed: Mapping[int, CommittedOffset], watermarks: Mapping[int, Watermarks], reported: Iterable[StageReport]
) -> int:
    """Offsets of the lag that are done: above a committed offset, as its metadata says, or below what workers have
    reported as done since."""
    done_to: dict[int, int] = {}
    for report in reported:
        for name, offset in report.done_to.items():
            if name.isdecimal():
                done_to[int(name)] = max(offset, done_to.get(int(name), 0))
    total = 0
    for number, mark in watermarks.items():
        progress = Progress.of(committed.get(number))
        start = max(mark.low, progress.committed or 0)
        first = min(max(start, done_to.get(number, 0)), mark.high)
        total += max(0, first - start) + sum(max(0, end - max(first, low)) for low, end in progress.done)
    return total


def read_group(admin: AdminPort, stage: Stage) -> tuple[list[GroupMember], dict[int, CommittedOffset]]:
    """A stage's members and committed offsets. Members first: both need the same permission, and librdkafka reports a
    refusal of members at once, but one of committed offsets only after its time limit. Raises BrokerError."""
    return admin.members(stage.group, REQUEST_TIMEOUT), admin.committed_offsets(
        stage.group, stage.topic, REQUEST_TIMEOUT
    )

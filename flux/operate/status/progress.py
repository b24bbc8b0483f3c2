"""How far a group is in one partition: all below its position is done, and the ranges that stand beside it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from flux.consuming.topic_setup import ASK
from flux.core.engine.offset_tracker import OffsetTracker, read_metadata
from flux.core.ports import AdminPort, CommittedOffset, GroupMember, Watermarks
from flux.core.stage import Stage


@attrs.frozen
class Progress:
    """`position` None: nothing is committed. `done`: half-open ranges above it, in order."""

    position: int | None = None
    done: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, stored: CommittedOffset | None) -> Progress:
        """A string that is not flux's, or damaged, says nothing, as it does to a worker."""
        if stored is None:
            return cls()
        return cls(stored.offset, tuple(read_metadata(stored.offset, stored.metadata) or ()))

    def has(self, offset: int) -> bool:
        """Whether the record there is done: its call returned, or its next forwarded copy was acknowledged."""
        if self.position is None:
            return False
        return offset < self.position or any(start <= offset < end for start, end in self.done)

    @property
    def done_above(self) -> int:
        """Offsets done above the position."""
        return sum(end - start for start, end in self.done)


def committed_after(stored: CommittedOffset | None, offset: int, low: int, max_metadata: int) -> CommittedOffset | None:
    """What to commit so that the record at `offset` is done too. `low`: the oldest offset that the partition holds.
    None: the string would be longer than `max_metadata`, and what does not fit would be worked again."""
    known = Progress.of(stored)
    offset_tracker = OffsetTracker(max(low, known.position or 0), known.done, max_metadata)
    offset_tracker.done(offset, offset + 1)
    position = CommittedOffset(offset_tracker.position, offset_tracker.metadata())
    return position if Progress.of(position).done == tuple(offset_tracker.ranges()) else None


def lag(positions: Mapping[int, CommittedOffset], marks: Mapping[int, Watermarks]) -> int:
    """Offsets that are still held and not passed by the positions."""
    total = 0
    for number, mark in marks.items():
        position = positions.get(number)
        start = mark.low if position is None else max(position.offset, mark.low)
        total += max(0, mark.high - start)
    return total


def read_group(admin: AdminPort, stage: Stage) -> tuple[list[GroupMember], dict[int, CommittedOffset]]:
    """A stage's members and positions. Both need the same permission; librdkafka tells of a refusal for members only,
    and for positions waits until its time limit. Raises BrokerError."""
    return admin.members(stage.group, ASK), admin.committed_offsets(stage.group, stage.topic, ASK)

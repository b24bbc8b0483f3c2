"""Start offsets of partitions without a committed offset: the oldest record, except with `start_from = "latest"`.

A group with "latest" starts once, for all partitions of the topic together: every record written after that is
processed, however late a partition is created or first assigned. It starts when a member finds, before it joins, that
the group has committed nothing on this topic; the member then notes the topic's end offsets. Members check before they
join, so members that start together agree: none can have committed before another one has checked. A partition that did
not exist yet starts at its oldest record. So does every partition for a member that finds commits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from flux.core.policy import Policy
from flux.core.ports import BEGINNING, TopicPartition, Watermarks
from flux.core.stage import Role, Stage


def begins_at_ends(policy: Policy, stage: Stage, committed: Collection[int]) -> bool:
    """Whether a group that has committed offsets of only these partitions skips the existing records."""
    return stage.role is Role.MAIN and policy.start_from == "latest" and not committed


class StartOffsets:
    """Of one stage."""

    __slots__ = ("_ends", "_policy", "_stage", "must_check")

    def __init__(self, policy: Policy, stage: Stage) -> None:
        self._policy = policy
        self._stage = stage
        self._ends: dict[int, int] = {}
        self.must_check = begins_at_ends(policy, stage, ())
        """Whether the group's committed offsets must still be passed to `found`, before the member joins."""

    def found(self, committed: Collection[int], marks: Mapping[int, Watermarks]) -> None:
        """Before the member joins: the partitions with committed offsets, and the topic's watermarks."""
        self.must_check = False
        if begins_at_ends(self._policy, self._stage, committed):
            self._ends = {number: mark.high for number, mark in marks.items()}

    def of(self, partition: TopicPartition) -> int:
        """The start offset, or BEGINNING, of a partition without a committed offset."""
        return self._ends.get(partition.partition, BEGINNING)

    def committed(self, partitions: Iterable[TopicPartition]) -> None:
        """The partitions have a committed offset now. If they have none later, the topic was recreated."""
        for partition in partitions:
            self._ends.pop(partition.partition, None)

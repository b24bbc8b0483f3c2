"""Where partitions start for which their group has committed no offset: with their oldest record, but for a group that
is to start with the newest.

Such a group has one beginning, for all partitions of the topic: what is written after it is worked, however late a
partition comes or is first assigned. The beginning is when a member finds, before it joins, that the group has
committed nothing on this topic: it then takes down the topic's ends. That it looks before it joins makes the members
agree that start together, each with some of the partitions: none of them can have committed while another one had not
looked. A partition that was not there yet starts with its oldest record, and so does every one for a member that finds
commits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from flux.core.policy import Policy
from flux.core.ports import BEGINNING, TopicPartition, Watermarks
from flux.core.stage import Role, Stage


def begins_at_ends(policy: Policy, stage: Stage, committed: Collection[int]) -> bool:
    """Whether a group that has committed offsets of these partitions, and no others, passes over what is there."""
    return stage.role is Role.MAIN and policy.start_from == "latest" and not committed


class Starts:
    """One stage's."""

    __slots__ = ("_ends", "_policy", "_stage", "looks")

    def __init__(self, policy: Policy, stage: Stage) -> None:
        self._policy = policy
        self._stage = stage
        self._ends: dict[int, int] = {}
        self.looks = begins_at_ends(policy, stage, ())
        """Whether it must still be `found`, before the member joins, what the group has committed."""

    def found(self, committed: Collection[int], marks: Mapping[int, Watermarks]) -> None:
        """The partitions of which the group has committed offsets, and what the topic holds."""
        self.looks = False
        if begins_at_ends(self._policy, self._stage, committed):
            self._ends = {number: mark.high for number, mark in marks.items()}

    def of(self, partition: TopicPartition) -> int:
        """An offset, or BEGINNING, for a partition without a committed offset."""
        return self._ends.get(partition.partition, BEGINNING)

    def committed(self, partitions: Iterable[TopicPartition]) -> None:
        """They have a committed offset from now on: once they have none, they are those of a topic made anew."""
        for partition in partitions:
            self._ends.pop(partition.partition, None)

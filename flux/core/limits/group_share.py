"""Which part of a group's rate limit one member may use, without a coordinator: the share of the partitions it owns.

Nine tenths go with the partitions of the main topic. One tenth goes with those of the retry topics, evenly, so that a
member that owns none of the main topic still gets to its retries. A member uses its part for all stages that it runs.
Each partition has one owner at a time, so the parts of all members add up to the limit at most.
"""

from __future__ import annotations

RETRIES_PART = 0.1
"""Part of the limit that goes with the partitions of all retry topics together."""
LEAST_PART = 0.01
"""Part for a member that owns partitions of neither: it drains dead letters, or retry topics beyond `retries`."""


class GroupShare:
    """Of one member. `retries`: number of the task's retry stages."""

    __slots__ = ("_counted", "_owned", "_retries")

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._counted: dict[int, int] = {}
        self._owned: dict[int, int] = {}

    def counted(self, stage: int, partitions: int) -> None:
        """The topic of `stage` has so many partitions."""
        self._counted[stage] = partitions

    def owns(self, stage: int, partitions: int) -> None:
        """This member owns so many partitions of the topic of `stage`."""
        self._owned[stage] = partitions

    @property
    def part(self) -> float | None:
        """From 0 to 1; None: it owns nothing."""
        if not any(self._owned.values()):
            return None
        return sum(self._weight(stage) * self._part_of(stage) for stage in self._owned) or LEAST_PART

    def _part_of(self, stage: int) -> float:
        owned = self._owned[stage]
        return owned / max(self._counted.get(stage, 0), owned, 1)

    def _weight(self, stage: int) -> float:
        if not self._retries:
            return float(stage == 0)
        if stage == 0:
            return 1 - RETRIES_PART
        return RETRIES_PART / self._retries if stage <= self._retries else 0.0

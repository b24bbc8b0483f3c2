"""Backpressure: when partitions are paused because too many of their records are in memory and not started.

The poll loop itself never stops. At each turn, pauses are computed from the assignments, with a gap between the
thresholds for pause and resume: a paused partition loses the records that the client had fetched. So a stage that is
full as a whole stops polling for a moment before it pauses partitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flux.core.engine.assignment import Assignment
from flux.core.policy import Policy
from flux.core.ports import TopicPartition
from flux.core.stage import Role

FULL = 1_000
"""A partition of the main topic with this many records in memory and not started is full."""
_FULL_PARTITIONS = 20
PATIENCE = 1.0
"""Seconds without a poll before a full stage pauses its partitions and polls again."""


class Backpressure:
    """Of one stage."""

    __slots__ = ("_full_since", "_policy", "_role", "full", "paused")

    def __init__(self, policy: Policy, role: Role) -> None:
        self._policy = policy
        self._role = role
        self._full_since: float | None = None
        self.paused = False
        """Whether any partition was paused at the last turn."""
        self.full = FULL if policy.batch is None else max(FULL, 2 * policy.batch.most)
        """A partition with this many records in memory and not started is full."""

    def idle(self, backlogs: Iterable[Assignment]) -> bool:
        """Whether nothing is paused and all records together would not fill one partition, so that no partition needs
        a decision. `backlogs`: the partitions with a backlog; no other has records in memory."""
        if self.paused or self._full_since is not None or self._role is not Role.MAIN:
            return False
        return sum(assignment.backlogged for assignment in backlogs) < self.full

    def patient(self, working: Sequence[Assignment], now: float, blocked: bool = False) -> bool:
        """Whether the stage has become full within the last `PATIENCE` seconds, so that it should not poll yet.
        `blocked`: it starts no calls, for a moment probably, and counts as full."""
        if not self._is_full(working, blocked):
            self._full_since = None
        elif self._full_since is None or self._full_since > now:
            self._full_since = now
        return self._full_since is not None and now - self._full_since < PATIENCE

    def changes(
        self, working: Sequence[Assignment], patient: bool, stopping: bool
    ) -> tuple[list[TopicPartition], list[TopicPartition]]:
        """(to pause, to resume) now."""
        pause: list[TopicPartition] = []
        resume: list[TopicPartition] = []
        all_full = self._full_since is not None and not patient
        main, pausing, resuming = self._role is Role.MAIN, 2 * self.full, self.full // 2
        for assignment in working:  # may be thousands at every turn, so no function calls for the main topic
            if main:
                most = resuming if assignment.paused else pausing
                wanted = stopping or all_full or assignment.backlogged + assignment.in_key_queues >= most
            else:
                wanted = stopping or self._holds_enough(assignment, len(working))
            if wanted != assignment.paused:
                assignment.paused = wanted
                (pause if wanted else resume).append(assignment.partition)
        self.paused = any(assignment.paused for assignment in working)
        return pause, resume

    def _is_full(self, working: Sequence[Assignment], blocked: bool) -> bool:
        if self._role is not Role.MAIN or not working:
            return False
        if blocked:
            return True
        loads = [a.backlogged + a.in_key_queues for a in working]
        return min(loads) >= self.full or sum(loads) >= _FULL_PARTITIONS * self.full

    def _holds_enough(self, assignment: Assignment, partitions: int) -> bool:
        """Whether a retry stage's partition has enough records in memory to be paused, or to stay paused."""
        share = 0.5 if assignment.paused else 1.0
        return (
            assignment.waiting + assignment.in_key_queues >= max(1, self._policy.max_waiting // partitions) * share
            or assignment.waiting_bytes >= self._policy.max_waiting_bytes // partitions * share
        )

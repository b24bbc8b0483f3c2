"""Back-pressure: how much may be here and not begun. Beyond it partitions are paused, never the poll loop.

Pauses follow from the assignments and their state at each turn, with a gap between pausing and resuming: a paused
partition loses what the client had fetched of it. So a stage that is full as a whole does not poll for a while first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flux.core.engine.assignment import Assignment
from flux.core.policy import Policy
from flux.core.ports import TopicPartition
from flux.core.stage import Role

FULL = 1_000
"""Records of one partition of the main topic that are here and not begun, from which on it is full."""
_FULL_PARTITIONS = 20
PATIENCE = 1.0
"""Seconds that a full stage does not poll before it pauses its partitions and polls again."""


class Backpressure:
    """One stage's."""

    __slots__ = ("_full_since", "_policy", "_role", "full", "paused")

    def __init__(self, policy: Policy, role: Role) -> None:
        self._policy = policy
        self._role = role
        self._full_since: float | None = None
        self.paused = False
        """Whether any partition was when they were last looked at; one that was assigned since is not."""
        self.full = FULL if policy.batch is None else max(FULL, 2 * policy.batch.most)
        """Records of one partition that are here and not begun, from which on it is full."""

    def idle(self, backlogs: Iterable[Assignment]) -> bool:
        """Whether nothing is paused, and all that is here could not fill one partition: then there is nothing to
        decide, however many partitions there are. `backlogs`: those that have one, and nothing is here beside them."""
        if self.paused or self._full_since is not None or self._role is not Role.MAIN:
            return False
        return sum(assignment.backlogged for assignment in backlogs) < self.full

    def patient(self, working: Sequence[Assignment], now: float) -> bool:
        """Whether the stage is full, and has been for so short that it does better not to poll at all."""
        if not self._is_full(working):
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
        for assignment in working:  # at every turn, and there may be thousands: no calls for those of the main topic
            if main:
                most = resuming if assignment.paused else pausing
                wanted = stopping or all_full or assignment.backlogged + assignment.laned >= most
            else:
                wanted = stopping or self._holds_enough(assignment, len(working))
            if wanted != assignment.paused:
                assignment.paused = wanted
                (pause if wanted else resume).append(assignment.partition)
        self.paused = any(assignment.paused for assignment in working)
        return pause, resume

    def _is_full(self, working: Sequence[Assignment]) -> bool:
        if self._role is not Role.MAIN or not working:
            return False
        loads = [a.backlogged + a.laned for a in working]
        return min(loads) >= self.full or sum(loads) >= _FULL_PARTITIONS * self.full

    def _holds_enough(self, assignment: Assignment, partitions: int) -> bool:
        """Of a retry stage's records, to be paused or to stay so."""
        share = 0.5 if assignment.paused else 1.0
        return (
            assignment.waiting + assignment.laned >= max(1, self._policy.max_waiting // partitions) * share
            or assignment.waiting_bytes >= self._policy.max_waiting_bytes // partitions * share
        )

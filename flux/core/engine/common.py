"""What the parts of one engine share: what a stage is, what it has counted and told, and its key queues."""

from __future__ import annotations

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.batches import Batches
from flux.core.engine.commits import Commits
from flux.core.engine.due_times import DueTimes, whole_ms
from flux.core.engine.key_queues import KeyQueues, Queues
from flux.core.limits.circuit_breaker import Gate
from flux.core.monitoring.log_events import Notices
from flux.core.monitoring.stats import Stats
from flux.core.policy import Policy
from flux.core.stage import Stage

BATCH = 500
"""Records asked for in one poll: what makes the client's own cost per record smallest."""
SHOWN = 5
"""Partitions, or records, that a line for the log names."""


class Common:
    """Of one stage. Its parts may read and change all of it. `gate`: the task's."""

    __slots__ = (
        "batch",
        "commits",
        "dues",
        "epoch",
        "gate",
        "key_queues",
        "notices",
        "policy",
        "stage",
        "stats",
        "stopping",
    )

    def __init__(self, policy: Policy, stage: Stage, gate: Gate) -> None:
        self.policy = policy
        self.stage = stage
        self.gate = gate
        self.stats = Stats()
        self.notices = Notices()
        self.commits = Commits(policy.commit_interval, policy.commit_threshold)
        self.dues = DueTimes(policy, stage, self.notices)
        self.key_queues: Queues = (
            KeyQueues(policy.ordering) if policy.batch is None else Batches(policy.batch, policy.ordering)
        )
        self.batch = BATCH
        self.stopping = False
        self.epoch = 0.0
        """The wall clock's time when `now` was 0, in seconds since the epoch, as far as the driver knows."""

    def wall_ms(self, now: float) -> int:
        """Milliseconds since the epoch by the wall clock."""
        return whole_ms(now + self.epoch)

    def begins(self, assignment: Assignment) -> bool:
        """Whether anything of a partition is begun any more."""
        return not self.stopping and assignment.phase is Phase.WORKING

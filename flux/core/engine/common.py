"""What the parts of one engine share: policy, counters, log lines, key queues."""

from __future__ import annotations

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.batches import Batches
from flux.core.engine.commits import Commits
from flux.core.engine.delay_queue import DelayQueue
from flux.core.engine.due_times import DueTimes, whole_ms
from flux.core.engine.held_back import HeldByName
from flux.core.engine.key_order import KeyOrder
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.ordering import Queues
from flux.core.limits.call_limits import CallLimits
from flux.core.monitoring.log_events import LogEvents
from flux.core.monitoring.stats import Stats
from flux.core.policy import Policy
from flux.core.stage import Stage

BATCH = 500
"""Records per poll: the number with the lowest cost per record in the client."""
SHOWN = 5
"""Partitions or records that a log line lists."""


class Common:
    """Of one stage. Its parts may read and change all of it."""

    __slots__ = (
        "batch",
        "call_limits",
        "commits",
        "delay_queue",
        "due_times",
        "epoch",
        "held_back",
        "key_order",
        "key_queues",
        "log_events",
        "policy",
        "stage",
        "stats",
        "stopping",
    )

    def __init__(
        self, policy: Policy, stage: Stage, call_limits: CallLimits, key_order: KeyOrder | None = None
    ) -> None:
        self.policy = policy
        self.stage = stage
        self.call_limits = call_limits
        self.key_order = key_order
        self.stats = Stats()
        self.log_events = LogEvents()
        self.commits = Commits(policy.commit_interval, policy.commit_threshold)
        self.due_times = DueTimes(policy, stage, self.log_events, self.stats, key_order)
        self.held_back = HeldByName(call_limits.by_name, self.log_events.append) if call_limits.by_name else None
        """What limits by name hold back; None: there are none."""
        self.key_queues: Queues = (
            KeyQueues(policy.ordering, self.held_back)
            if policy.batch is None
            else Batches(policy.batch, policy.ordering)
        )
        self.delay_queue = DelayQueue(merges=policy.batch is None)
        self.batch = BATCH
        self.stopping = False
        self.epoch = 0.0
        """The wall clock's time, in seconds since the epoch, when `now` was 0."""

    def wall_ms(self, now: float) -> int:
        """The wall clock's time in milliseconds since the epoch."""
        return whole_ms(now + self.epoch)

    def begins(self, assignment: Assignment) -> bool:
        """Whether new calls may start for a partition."""
        return not self.stopping and assignment.phase is Phase.WORKING

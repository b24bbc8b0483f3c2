"""What the parts of a coordinator share: the stages of the task in this process, and what belongs to all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from flux.consuming.exclusion import Exclusion
from flux.consuming.forwarder import Forwarder
from flux.consuming.hook_dispatch import HookDispatch
from flux.consuming.task_log import TaskLog
from flux.core.engine import Engine
from flux.core.engine.forwarding import Forward
from flux.core.engine.runs import Run
from flux.core.hooks import StageInfo
from flux.core.monitoring.duties import Duty
from flux.core.monitoring.log_throttle import FailureLog
from flux.core.policy import Policy
from flux.core.ports import Condition, ConsumerSettings, Membership, System
from flux.core.stage import Role


@attrs.define(eq=False)
class StageRuntime:
    """One stage of a task in this process."""

    engine: Engine
    settings: ConsumerSettings
    where: StageInfo
    system: System
    joined: bool = False
    """Whether its first rebalance is complete, with or without partitions."""
    left: bool = False
    """Whether it has left its group, or was abandoned."""
    dormant: bool = False
    """Whether it does not join its group yet, because its topic is empty: see `late_joins.py`."""
    began_at: float = attrs.field(init=False)
    stepped_at: float = attrs.field(init=False)
    """When its poll loop last progressed."""
    received_at: float = attrs.field(init=False)
    """When it last had records, or had read all records."""
    reported_at: float = 0.0
    """When it was last reported as waiting for an assignment."""
    forwarding: Forwarder = attrs.field(init=False)
    polling: Duty = attrs.field(init=False)
    moved: list[Forward] = attrs.field(factory=list)
    """Acknowledged forwards that hooks were not notified of yet; empty if no hook wants them."""
    failures: FailureLog = attrs.field(factory=FailureLog)
    membership: Callable[[], Membership | None] = lambda: None
    """Its consumer's membership in the group."""
    transact: Callable[[], None] = lambda: None
    """Requests a transaction of what waits for one (`exactly_once`); does not wait."""
    stands_by: bool = False
    """Whether its poller waits for a permit, and takes it at once when one is free."""

    def __attrs_post_init__(self) -> None:
        self.polling = Duty(f"{self}: its poll loop")
        self.began_at = self.stepped_at = self.received_at = self.system.monotonic()

    def __str__(self) -> str:
        return self.engine.stage.topic

    @property
    def has_joined(self) -> bool:
        """Whether it has joined its group, or need not yet."""
        return self.joined or self.dormant

    def now_locked(self) -> float:
        """The engine's time. Also sets the engine's epoch."""
        now = self.system.monotonic()
        self.engine.epoch = self.system.now() - now
        return now


def consumer_settings(engine: Engine, instance_suffix: str, task: str) -> ConsumerSettings:
    """The settings of the stage's consumer."""
    stage = engine.stage
    return ConsumerSettings(
        topic=stage.topic,
        group=stage.group,
        small_queue=stage.role is not Role.MAIN,
        instance_suffix=f"{instance_suffix}-{stage.number}{'-leftover' if stage.role is Role.LEFTOVER else ''}",
        task=task,
    )


@attrs.define(eq=False)
class Driver:
    """Callbacks of a coordinator's driver, which replaces those that it implements differently."""

    write_soon: Callable[[StageRuntime], None]
    """Writes the forwarded copies that a call has just caused; must not block a caller that must not wait."""
    wake_locked: Callable[[int], None] = lambda _: None
    """Wakes about that many more callers for work, and the threads that wait for a fact."""
    join_locked: Callable[[StageRuntime], object] = lambda _: None
    """Starts polling a stage that was dormant."""
    freed: Callable[[int], None] = lambda _: None
    """A thread is stuck in a write, and others write in its place: they take over its other duties too."""
    stack_of: Callable[[Run], str] = lambda _: ""
    """The stack of a run's caller, as text."""


@attrs.define(eq=False)
class Shared:
    policy: Policy
    runtimes: Sequence[StageRuntime]
    hook_dispatch: HookDispatch
    task_log: TaskLog
    system: System
    lock: Condition
    driver: Driver
    exclusion: Exclusion
    facts: int = 0
    """Number of facts so far that a waiting thread may wait for."""
    ended_at: float | None = None
    """When the last stage left its group, by the monotonic clock."""
    aborted: set[Run] = attrs.field(factory=set)
    """Runs whose calls never count, however they end."""

    def wake_locked(self, needed: int) -> None:
        self.facts += 1
        self.driver.wake_locked(needed)

    def admits_locked(self, runtime: StageRuntime, now: float) -> bool:
        """Whether a stage may start a run: beside others, or alone if it is to be alone."""
        if runtime.engine.wants_alone(now):
            return self.exclusion.claim(runtime)
        return self.exclusion.enter()

    def release_locked(self, runtime: StageRuntime) -> None:
        """Lets others start runs again if a stage does not need the process alone any more, or not yet if its last
        commit accuses somebody."""
        self.exclusion.hold(runtime, runtime.engine.unclear())
        if self.exclusion.owner is runtime and not runtime.engine.wants_alone(runtime.now_locked()):
            self.exclusion.release(runtime)
            self.wake_locked(self.policy.concurrency)

    def wake_all_locked(self) -> None:
        self.wake_locked(len(self.runtimes) + self.policy.concurrency)

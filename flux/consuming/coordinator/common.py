"""What the parts of a coordinator share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from flux.consuming.coordinator.stage_runtime import StageRuntime
from flux.consuming.hook_dispatch import HookDispatch
from flux.consuming.task_log import TaskLog
from flux.core.engine.runs import Run
from flux.core.policy import Policy
from flux.core.ports import Condition, System


@attrs.define(eq=False)
class Driver:
    """Callbacks of a coordinator's driver, which replaces those that it implements differently."""

    write_soon: Callable[[StageRuntime], None]
    """Writes the forwarded copies that a call has just caused; must not block a caller that must not wait."""
    wake_locked: Callable[[int], None] = lambda _: None
    """Wakes about that many more callers for work, and the threads that wait for a fact."""
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
    facts: int = 0
    """Number of facts so far that a waiting thread may wait for."""
    aborted: set[Run] = attrs.field(factory=set)
    """Runs whose calls never count, however they end."""

    def wake_locked(self, needed: int) -> None:
        self.facts += 1
        self.driver.wake_locked(needed)

    def wake_all_locked(self) -> None:
        self.wake_locked(len(self.runtimes) + self.policy.concurrency)

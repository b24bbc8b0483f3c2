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
    """What a driver does for its coordinator: it sets what it does otherwise."""

    write_soon: Callable[[StageRuntime], None]
    """Has forwarded copies written that a call has just caused; must not wait where the caller must not."""
    wake_locked: Callable[[int], None] = lambda _: None
    """There may be work for about that many more callers, or a fact that somebody who rests may wait for."""
    freed: Callable[[int], None] = lambda _: None
    """A thread stands still in a write, and others write in its place: the rest that it holds is theirs too."""
    stack_of: Callable[[Run], str] = lambda _: ""
    """Where the caller of a run is, as a traceback's text."""


@attrs.define(eq=False)
class Shared:
    policy: Policy
    runtimes: Sequence[StageRuntime]
    heard: HookDispatch
    task_log: TaskLog
    system: System
    lock: Condition
    driver: Driver
    facts: int = 0
    """How many there were that somebody who rests may wait for."""
    aborted: set[Run] = attrs.field(factory=set)
    """Runs whose calls never count, however they end."""

    def wake_locked(self, needed: int) -> None:
        self.facts += 1
        self.driver.wake_locked(needed)

    def wake_all_locked(self) -> None:
        self.wake_locked(len(self.runtimes) + self.policy.concurrency)

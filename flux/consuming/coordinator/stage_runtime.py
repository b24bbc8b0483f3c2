"""One stage of a task in this process."""

from __future__ import annotations

import attrs

from flux.consuming.forwarder import Forwarder
from flux.core.engine import Engine
from flux.core.engine.forwarding import Forward
from flux.core.hooks import StageInfo
from flux.core.monitoring.duties import Duty
from flux.core.monitoring.failure_log import FailureLog
from flux.core.ports import ConsumerSettings, System
from flux.core.stage import Role


@attrs.define(eq=False)
class StageRuntime:
    engine: Engine
    settings: ConsumerSettings
    where: StageInfo
    system: System
    joined: bool = False
    """Whether the group has given it partitions, or told that there are none for it."""
    left: bool = False
    """Whether it has left its group, or was abandoned."""
    began_at: float = attrs.field(init=False)
    stepped_at: float = attrs.field(init=False)
    """When its poller last went on."""
    heard_at: float = attrs.field(init=False)
    """When it last had records, or was found to have read all."""
    named_at: float = 0.0
    """When it was last named as standing still."""
    forwarding: Forwarder = attrs.field(init=False)
    polling: Duty = attrs.field(init=False)
    moved: list[Forward] = attrs.field(factory=list)
    """Forwarded copies that are acknowledged, for hooks that have not been told; empty when none hears of them."""
    failures: FailureLog = attrs.field(factory=FailureLog)
    stands_by: bool = False
    """Whether its poller rests for a permit, and takes it at once when there is one."""

    def __attrs_post_init__(self) -> None:
        self.polling = Duty(f"{self}: its poll loop")
        self.began_at = self.stepped_at = self.heard_at = self.system.monotonic()

    def __str__(self) -> str:
        return self.engine.stage.topic

    def now_locked(self) -> float:
        """The time for the engine, which learns where the wall clock stands."""
        now = self.system.monotonic()
        self.engine.epoch = self.system.now() - now
        return now


def consumer_settings(engine: Engine, instance_suffix: str) -> ConsumerSettings:
    """How the stage's consumer is to be."""
    stage = engine.stage
    return ConsumerSettings(
        topic=stage.topic,
        group=stage.group,
        small_queue=stage.role is not Role.MAIN,
        instance_suffix=f"{instance_suffix}-{stage.number}{'-leftover' if stage.role is Role.LEFTOVER else ''}",
    )

"""How a task gets on: names what stands still, and answers those who ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from flux.consuming.coordinator.common import Shared
from flux.consuming.coordinator.stage_runtime import StageRuntime
from flux.consuming.slow_calls import SlowCalls
from flux.core.engine.commands import Stall
from flux.core.monitoring.health import Pulse
from flux.core.ports import TopicPartition
from flux.system import stack_of_thread

T = TypeVar("T")
_EVERY = 1.0  # seconds between two looks for what stands still


class Inspection:
    """`name_lost` names partitions that were lost since it was called last."""

    ENTRANCES = ("look",)

    def __init__(self, common: Shared, name_lost: Callable[[], None]) -> None:
        self._common = common
        self._name_lost = name_lost
        self.slow_calls: SlowCalls | None = None
        """Of a handler that blocks and has a time limit."""
        self._again_at = 0.0

    def look(self) -> None:
        """Names in the log what has work and gets nowhere: partitions, stages without an assignment."""
        common = self._common
        task_log, runtimes = common.task_log, common.runtimes
        with common.lock:
            now = common.system.monotonic()
            if now < self._again_at:
                return
            self._again_at = now + _EVERY
            stalls = [(runtime, stall) for runtime in runtimes for stall in runtime.engine.stalled(now)]
            stalls += [(runtime, stall) for runtime in runtimes for stall in self._unjoined_locked(runtime, now)]
            counts = [(runtime, count) for runtime in runtimes for count in runtime.failures.counts(now)]
        self._name_lost()
        for late in self.slow_calls.found(now) if self.slow_calls is not None else ():
            where = common.heard.of(late.message.stage)
            task_log.slow_calls(where, late, now - late.began, stack_of_thread(late.thread))
        for runtime, stall in stalls:
            task_log.stalled(runtime.where, stall, "" if stall.run is None else common.driver.stack_of(stall.run))
        for runtime, count in counts:
            task_log.counted(runtime.where, count)

    def _unjoined_locked(self, runtime: StageRuntime, now: float) -> list[Stall]:
        patience = self._common.policy.stalled_after
        if runtime.joined or runtime.left or not 0 < patience <= now - max(runtime.began_at, runtime.named_at):
            return []
        runtime.named_at = now
        return [Stall(f"{runtime} has waited for an assignment for {now - runtime.began_at:.0f} s")]

    def hungry(self) -> list[StageRuntime]:
        """Stages that have had no records for long: whether the cluster has any is for others to ask. Each again after
        as long."""
        common = self._common
        with common.lock:
            now = common.system.monotonic()
            hungry = []
            for runtime in common.runtimes:
                waits = runtime.joined and not runtime.left
                if not runtime.engine.empty:
                    runtime.heard_at = now
                elif waits and 0 < common.policy.stalled_after <= now - runtime.heard_at:
                    runtime.heard_at = now
                    hungry.append(runtime)
        return hungry

    # ---- answers

    def read(self, look: Callable[[StageRuntime, float], T]) -> list[T]:
        """What `look` finds in each stage at the time that it is given, while nothing changes; it should not take
        long."""
        with self._common.lock:
            return [look(runtime, runtime.now_locked()) for runtime in self._common.runtimes]

    def pulses(self) -> list[Pulse]:
        """Each stage, as a probe finds it."""
        patience = self._common.policy.stalled_after
        return self.read(
            lambda runtime, now: Pulse(str(runtime), runtime.joined, runtime.left, now - runtime.stepped_at, patience)
        )

    def calls(self) -> int:
        """Callers that are in a run."""
        return sum(self.read(lambda runtime, now: runtime.engine.calls))

    def idle(self) -> bool:
        """Nothing is in flight or waiting here, but for what is `refused`; the cluster may have more."""
        return all(self.read(lambda runtime, now: runtime.joined and runtime.engine.rests(now)))

    def refused(self) -> list[str]:
        """Records that cannot move on, each with why."""
        return [
            str(forward)
            for forwards in self.read(lambda runtime, now: list(runtime.engine.refused))
            for forward in forwards
        ]

    def ends(self) -> list[tuple[str, Mapping[TopicPartition, int]]]:
        """Each stage's topic with how far its partitions were read; negative where nothing is known."""
        return self.read(lambda runtime, now: (str(runtime), runtime.engine.read_offsets()))

"""Does what commands ask of a running task: see `flux.core.control`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flux.consuming.coordinator.common import Shared
from flux.core.control.records import Whereabouts, whereabouts
from flux.core.control.standing import Hold, SetRate
from flux.core.limits.call_limits import CallLimits


class TaskControl:
    """`call_limits`: shared by all engines."""

    def __init__(self, common: Shared, call_limits: CallLimits) -> None:
        self._common = common
        self._call_limits = call_limits

    def hold(self, held: Mapping[int, Hold]) -> None:
        """These stages start no call, and the others go on. Calls that run may end."""
        common = self._common
        with common.lock:
            before, self._call_limits.held = self._call_limits.held, dict(held)
            for runtime in common.runtimes:
                if runtime.engine.stage.number in held and runtime.engine.stage.number not in before:
                    runtime.engine.paused()
            common.wake_all_locked()

    def set_rate(self, rate: float | None, commanded: SetRate | None) -> None:
        """Calls a second; None: no limit. Runs that were handed out before go on: they are long if calls are quick.
        `commanded`: who has set it; None: the task's code."""
        with self._common.lock:
            self._call_limits.set_rate(rate, commanded)
            self._common.wake_all_locked()

    @property
    def rate(self) -> float | None:
        """As `set_rate`."""
        return self._call_limits.rate

    @property
    def rate_here(self) -> float | None:
        """This process's part of the rate."""
        return self._call_limits.rate_here

    @property
    def commanded_rate(self) -> SetRate | None:
        return self._call_limits.commanded_rate

    @property
    def held(self) -> Mapping[int, Hold]:
        """By stage; a snapshot."""
        return self._call_limits.held

    @property
    def stages(self) -> list[int]:
        """The numbers of the stages in this process."""
        return [runtime.engine.stage.number for runtime in self._common.runtimes]

    def calls(self, stages: Iterable[int]) -> int:
        """Number of running calls of these stages."""
        with self._common.lock:
            runtimes = self._common.runtimes
            return sum(each.engine.calls for each in runtimes if each.engine.stage.number in stages)

    def whereabouts(self, stage: int, partition: int, offset: int) -> Whereabouts:
        with self._common.lock:
            found = [each.engine for each in self._common.runtimes if each.engine.stage.number == stage]
            return whereabouts(found[0], partition, offset) if found else Whereabouts.ELSEWHERE

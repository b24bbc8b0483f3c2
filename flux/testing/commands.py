"""Commands to the tasks of a kit, as operators give them to running workers: see docs/how-to/commands.md. Each run is a
process that starts anew, so it obeys what was commanded before it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from flux.consuming.task_runtime import TaskRuntime
from flux.core.control.commands import Action, WorkerCommand
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.operate.commands import command_of
from flux.operate.skip import no_stage
from flux.processes.controlled_task import ControlledTask
from flux.testing.machine import Machine

_BY = "the test"


def stage_of(policy: Policy, topic: str) -> int:
    """Raises ConfigurationError."""
    for stage in policy.stages:
        if stage.topic == topic:
            return stage.number
    raise ConfigurationError(f"no stage of the task consumes topic {topic}")


@attrs.frozen
class _Given:
    cluster: str
    command: WorkerCommand
    at: float
    """Milliseconds since the epoch."""


class Commands:
    """All that were given, and the runs that obey them now."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._given: list[_Given] = []
        self._runs: list[CommandedRun] = []

    def give(self, cluster: str, policy: Policy, action: Action, **fields: object) -> None:
        """Raises ConfigurationError."""
        stage = fields.get("stage")
        if isinstance(stage, int) and stage > policy.stages.dead:
            raise ConfigurationError(no_stage(policy.stages, stage))
        given = _Given(cluster, command_of(policy, action, _BY, **fields), 1000 * self._machine.now())
        self._given.append(given)
        for run in self._runs:
            run.take(given)

    def run(self, jobs: Sequence[TaskRuntime]) -> CommandedRun:
        """For a run of these tasks."""
        return CommandedRun(self._machine, jobs, self._given, self._runs)


class CommandedRun:
    """One run of the kit. `given`: all commands; `runs`: those that obey now."""

    def __init__(
        self, machine: Machine, jobs: Sequence[TaskRuntime], given: Sequence[_Given], runs: list[CommandedRun]
    ) -> None:
        self.restarts = False
        """Whether it ends to be started again."""
        self._machine = machine
        self._tasks = [ControlledTask(job, machine) for job in jobs]
        self._given = given
        self._runs = runs

    def start(self) -> None:
        """Obeys what still holds, and from now on what is commanded. To be called when the tasks are prepared."""
        for given in self._given:
            for task in self._meant(given):
                task.standing.take(given.command, given.at)
        self.apply()
        self._runs.append(self)

    def end(self) -> None:
        if self in self._runs:
            self._runs.remove(self)

    def take(self, given: _Given) -> None:
        for task in self._meant(given):
            if task.obey(given.command, given.at).restarts:
                self.restarts = True
                for each in self._tasks:
                    each.job.stop(self._machine.monotonic())

    def apply(self) -> None:
        """Ends what was commanded for some time."""
        for task in self._tasks:
            task.apply()

    def ends_at(self) -> list[float]:
        """When pauses end that hold back records, in seconds since the epoch."""
        found = []
        for task in self._tasks:
            assert task.job.coordinator is not None
            held = task.job.coordinator.control.held
            for runtime in task.job.coordinator.runtimes:
                hold = held.get(runtime.engine.stage.number)
                if hold is not None and hold.until != math.inf and not runtime.engine.empty:
                    found.append(hold.until / 1000)
        return found

    def _meant(self, given: _Given) -> list[ControlledTask]:
        return [each for each in self._tasks if each.cluster == given.cluster and each.is_meant(given.command)]

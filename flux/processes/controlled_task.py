"""One task in this process as commands find it: applies what holds, does what is to be done once, says what it did."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime

import attrs

from flux.consuming.coordinator.control import TaskControl
from flux.consuming.task_runtime import TaskRuntime
from flux.core.control.commands import VALID, Action, WorkerCommand
from flux.core.control.records import Whereabouts
from flux.core.control.standing import Hold, Standing
from flux.core.monitoring.report import ranges_of
from flux.core.ports import System
from flux.core.text import one_line

logger = logging.getLogger("flux.control")

_SKIP_ANSWERS = {
    Whereabouts.CALLED: (False, "its call is running and goes on; if it is delivered again, it is skipped"),
    Whereabouts.ENDED: (False, "its call has ended: its copy, or what the call produced, is not acknowledged yet"),
    Whereabouts.DONE: (False, "it is done already"),
    Whereabouts.AHEAD: (True, "becomes a dead letter without a call when its turn comes"),
    Whereabouts.ELSEWHERE: (True, "does not own the partition; it would skip the record too"),
}


@attrs.frozen
class CommandResult:
    """What a process did. `ok`: as the command wants; `restarts`: it ends now."""

    ok: bool
    text: str
    restarts: bool = False


class ControlledTask:
    """Used under a lock."""

    def __init__(self, job: TaskRuntime, system: System) -> None:
        self.job = job
        self.name = job.name
        self.cluster = job.adapter.cluster
        self.standing = Standing()
        self._system = system
        job.skips = self.standing.skips

    def is_meant(self, command: WorkerCommand) -> bool:
        stages = self.job.policy.stages
        return (command.topic, command.group) == (stages.topic, stages.group)

    def apply(self) -> None:
        """Makes the task do what holds now."""
        control, now = self._control, self._now
        held = self.standing.holds(control.stages, now)
        before = dict(control.held)
        if held != before:
            control.hold(held)
            self._log_holds(before, held)
        set_rate = self.standing.rate(now)
        wanted = self.job.policy.rate_limit if set_rate is None else set_rate.rate
        before_rate = control.rate
        if (wanted, set_rate) != (before_rate, control.commanded_rate):
            control.set_rate(wanted, set_rate)
        if wanted != before_rate:
            by = "" if set_rate is None else f", as {set_rate.by} has set"
            logger.warning("%s", one_line(f"{self.name} {_rate(wanted)}{by}"), extra={"task": self.name})

    def obey(self, command: WorkerCommand, at: float) -> CommandResult:
        """Takes a command that was given at `at`, in milliseconds since the epoch, while this process runs."""
        before = dict(self._control.held)
        self.standing.take(command, at)
        self.apply()
        if command.action is not Action.RESTART:
            return self.result(command, at, before)
        late = (self._now - at) / 1000
        if late > VALID:
            return CommandResult(False, f"did nothing: the command came {late:.0f} s late by this machine's clock")
        logger.warning("%s: restarts, as %s wants", self.name, one_line(command.by), extra={"task": self.name})
        return CommandResult(True, "restarts", restarts=True)

    def result(self, command: WorkerCommand, at: float, before: Mapping[int, Hold]) -> CommandResult:
        """Of a command that was taken. `before`: the stages that were paused then."""
        control = self._control
        stages = [each for each in control.stages if command.stage in (None, each)]
        if not stages:
            return CommandResult(False, f"does not run stage {command.stage}")
        if command.seconds is not None and at + 1000 * command.seconds <= self._now:
            return CommandResult(
                False, "did nothing: by this machine's clock its time was over when it came; see flux doctor --clock"
            )
        match command.action:
            case Action.PAUSE:
                calls = control.calls(stages)
                return CommandResult(True, f"paused{f', {calls} call(s) still running' if calls else ''}")
            case Action.RESUME:
                return self._resumed(stages, before)
            case Action.SET_RATE:
                return CommandResult(True, _rate(control.rate))
            case Action.SKIP:
                return self._skipped(command)
            case Action.RESTART:
                return CommandResult(True, "has started since")

    def _resumed(self, stages: list[int], before: Mapping[int, Hold]) -> CommandResult:
        left = {stage: hold for stage, hold in self._control.held.items() if stage in stages}
        if left:
            hold = next(iter(left.values()))
            return CommandResult(
                False, f"stays paused, because {hold.by} has paused the whole task: resume it without --stage"
            )
        return CommandResult(True, "resumed" if any(stage in before for stage in stages) else "was not paused")

    def _skipped(self, command: WorkerCommand) -> CommandResult:
        place = (command.stage or 0, command.partition or 0, command.offset or 0)
        found = self._control.whereabouts(*place)
        ok, text = _SKIP_ANSWERS[found]
        if found is not Whereabouts.ELSEWHERE:
            stage, partition, offset = place
            where = f"{self.name}: record {partition}:{offset} of stage {stage}"
            line = f"{where} is to be skipped, as {command.by} wants ({command.why}): {text}"
            logger.warning("%s", one_line(line), extra={"task": self.name})
        return CommandResult(ok, text)

    def _log_holds(self, before: Mapping[int, Hold], held: Mapping[int, Hold]) -> None:
        changed: dict[Hold | None, list[int]] = {}
        for stage in sorted({*before, *held}):
            if before.get(stage) != held.get(stage):
                changed.setdefault(held.get(stage), []).append(stage)
        for hold, stages in changed.items():
            which = f"{self.name}, stage {ranges_of(stages)}"
            line = f"{which}: resumed" if hold is None else f"{which}: paused by {_shown(hold)}"
            logger.warning("%s", one_line(line), extra={"task": self.name})

    @property
    def _control(self) -> TaskControl:
        assert self.job.coordinator is not None
        return self.job.coordinator.control

    @property
    def _now(self) -> float:
        return self._system.now() * 1000


def _shown(hold: Hold) -> str:
    why = f" ({hold.why})" if hold.why else ""
    if hold.until == math.inf:
        return f"{hold.by}{why} until it is resumed"
    return f"{hold.by}{why} until {datetime.fromtimestamp(hold.until / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"


def _rate(rate: float | None) -> str:
    return "calls without a rate limit" if rate is None else f"makes at most {rate:g} calls a second"

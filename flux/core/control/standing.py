"""What the commands to one task add up to: which stages are paused, at which rate it calls, which records it skips.

Commands are taken in the order of their topic, so a process that starts later reads the same state. Times are in
milliseconds since the epoch: a command was given when its record was written, by the brokers' clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs

from flux.core.control.commands import SKIP_HOLDS, Action, WorkerCommand

MOST_SKIPS = 10_000
"""Records that a task remembers to skip; the oldest are forgotten first."""
Place = tuple[int, int, int]
"""(stage, partition, offset)"""


@attrs.frozen
class Hold:
    """Somebody has paused a stage, or the whole task. `until`: infinite, until it is resumed."""

    by: str
    why: str
    since: float
    until: float
    whole: bool = True
    """Whether the whole task is paused, and not this stage alone."""


@attrs.frozen
class SetRate:
    """Somebody has set the rate limit. `rate`: calls a second; None: no limit."""

    by: str
    rate: float | None
    until: float


class Standing:
    """Of one task in one process. Not thread-safe, but for `skips`."""

    def __init__(self) -> None:
        self._holds: dict[int | None, Hold] = {}
        self._rate: SetRate | None = None
        self._skipped_until: dict[Place, float] = {}
        self.skips: dict[Place, str] = {}
        """Why a record is not called; read by callers without a lock."""

    def take(self, command: WorkerCommand, at: float) -> None:
        """The next command. `at`: when it was given."""
        until = math.inf if command.seconds is None else at + 1000 * command.seconds
        match command.action:
            case Action.PAUSE:
                self._holds[command.stage] = Hold(command.by, command.why, at, until, command.stage is None)
            case Action.RESUME if command.stage is None:
                self._holds.clear()
            case Action.RESUME:
                self._holds.pop(command.stage, None)
            case Action.SET_RATE:
                rate = command.rate
                self._rate = None if rate is None else SetRate(command.by, rate or None, until)
            case Action.SKIP if command.stage is not None and command.partition is not None:
                self._skip((command.stage, command.partition, command.offset or 0), command, at + 1000 * SKIP_HOLDS)
            case _:  # a restart is done once, by those that run
                pass

    def _skip(self, place: Place, command: WorkerCommand, until: float) -> None:
        self.skips[place] = f"{command.why} (skipped by {command.by})"
        self._skipped_until[place] = until
        if len(self.skips) > MOST_SKIPS:
            self._forget(next(iter(self.skips)))

    def _forget(self, place: Place) -> None:
        del self.skips[place], self._skipped_until[place]

    def expire(self, now: float) -> None:
        """Forgets what no longer holds."""
        self._holds = {stage: hold for stage, hold in self._holds.items() if hold.until > now}
        if self._rate is not None and self._rate.until <= now:
            self._rate = None
        for place in [place for place, until in self._skipped_until.items() if until <= now]:
            self._forget(place)

    def holds(self, stages: Iterable[int], now: float) -> dict[int, Hold]:
        """Those of these stages that are paused; of two pauses, the one that ends later."""
        self.expire(now)
        found = {stage: [self._holds[each] for each in (None, stage) if each in self._holds] for stage in stages}
        return {stage: max(holds, key=lambda hold: hold.until) for stage, holds in found.items() if holds}

    def rate(self, now: float) -> SetRate | None:
        """None: as the task's code says."""
        self.expire(now)
        return self._rate

"""Finds background work that does not progress: poll loops, writers, event loops. The watchdog logs its stack, and
another thread takes over where that is safe.

The thread that does a duty marks its steps and its pauses. That takes no lock and reads no clock, so a duty can be
checked whatever is blocked.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

PATIENCE = 20.0
"""Seconds that a step may take: longer than any request to a cluster."""
CHECK_INTERVAL = 1.0
"""Seconds between two checks."""
_LATE = 5.0
"""If two checks are further apart, in seconds, the whole process was frozen and not one duty."""


@attrs.define(eq=False)
class Duty:
    """Work that one thread does for others. `name`: for the log, such as "the poll loop of orders". `stack`: returns a
    traceback of where it is now; None: the stack of `thread`. `take_over`: lets another thread continue the work if
    that is safe, and returns whether it does. `probe`: schedules a call of `rest`, for a duty that marks no steps
    itself, such as an event loop."""

    name: str
    stack: Callable[[], str] | None = None
    take_over: Callable[[], bool] | None = None
    probe: Callable[[], object] | None = None
    thread: int = 0
    """Identifier of the thread that does it."""
    steps: int = 0
    busy: bool = False
    ended: bool = False

    def step(self, thread: int) -> None:
        """`thread` starts a step, which should not take long."""
        self.thread = thread
        self.steps += 1
        self.busy = True

    def rest(self) -> None:
        """Nothing to do, or the next step may take any time."""
        self.busy = False

    def end(self) -> None:
        """The duty is over, and is not checked any more."""
        self.busy, self.ended = False, True


@attrs.frozen
class StalledDuty:
    """A duty without progress for `seconds`. `first`: whether it is reported for the first time, so that another thread
    may take over."""

    duty: Duty
    seconds: float
    first: bool


@attrs.define
class _Step:
    number: int
    seen: float
    report_at: float
    reported: bool = False


class Duties:
    """All duties of a process. Any thread may call `add`; one thread calls everything else."""

    def __init__(self) -> None:
        self._added: list[Duty] = []
        self._steps: dict[Duty, _Step] = {}
        self._checked_at: float | None = None

    def add(self, duty: Duty) -> None:
        self._added.append(duty)

    def checked(self, now: float) -> list[StalledDuty]:
        """Checks all duties, to be called every `CHECK_INTERVAL` seconds. Returns those to report now; each is reported
        again after twice the time."""
        while self._added:
            duty = self._added.pop()
            self._steps[duty] = _began(duty, now)
        last, self._checked_at = self._checked_at, now
        late = last is None or not 0 <= now - last <= _LATE
        standing = []
        for duty, step in list(self._steps.items()):
            if duty.ended:
                del self._steps[duty]
            elif late or not duty.busy or duty.steps != step.number:
                self._steps[duty] = _began(duty, now)
            elif now >= step.report_at:
                seconds = now - step.seen
                standing.append(StalledDuty(duty, seconds, not step.reported))
                step.report_at, step.reported = now + seconds, True
        return standing

    def to_probe(self) -> list[Duty]:
        """The duties whose `probe` is to be called now."""
        found = [duty for duty in self._steps if duty.probe is not None and not duty.busy and not duty.ended]
        for duty in found:
            duty.steps += 1
            duty.busy = True
        return found

    def __len__(self) -> int:
        return len(self._steps) + len(self._added)


def _began(duty: Duty, now: float) -> _Step:
    return _Step(duty.steps, now, now + PATIENCE)

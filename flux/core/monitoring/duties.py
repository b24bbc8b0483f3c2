"""Whether those that others rely on go on: pollers, writers, event loops. Finds who stands still, so that it is named
in the log with its stack, and who else takes over.

A duty says that it takes a step, and when it has nothing to do. Neither takes a lock or reads a clock, so that a duty
can be watched whatever stands.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

PATIENCE = 20.0
"""Seconds that a step may take: longer than any question to a cluster."""
LOOK = 1.0
"""Seconds between two looks."""
_LATE = 5.0
"""Seconds between two looks after which the whole process has stood (a frozen machine), not one of its duties."""


@attrs.define(eq=False)
class Duty:
    """Something that one thread does for others. `name`: as the log has it, such as "the poll loop of orders". `stack`:
    where it is now, as a traceback's text; None: where `thread` is. `take_over`: has another thread go on in its place,
    where that is safe; whether one does. `ask`: has the duty call `rest` when it comes to it, for one that takes no
    steps of its own, such as an event loop."""

    name: str
    stack: Callable[[], str] | None = None
    take_over: Callable[[], bool] | None = None
    ask: Callable[[], object] | None = None
    thread: int = 0
    """The identifier of the one that has it."""
    steps: int = 0
    busy: bool = False
    ended: bool = False

    def step(self, thread: int) -> None:
        """`thread` begins a step, which should not take long."""
        self.thread = thread
        self.steps += 1
        self.busy = True

    def rest(self) -> None:
        """There is nothing to do, or the time that it takes is somebody else's."""
        self.busy = False

    def end(self) -> None:
        """It is not needed any more."""
        self.busy, self.ended = False, True


@attrs.frozen
class Standing:
    """A duty that does not go on. `first`: whether it was found for the first time, and may be taken over."""

    duty: Duty
    seconds: float
    first: bool


@attrs.define
class _Step:
    number: int
    seen: float
    tell_at: float
    told: bool = False


class Duties:
    """All duties of a process. `add` may be called from any thread, the rest from one."""

    def __init__(self) -> None:
        self._added: list[Duty] = []
        self._steps: dict[Duty, _Step] = {}
        self._looked_at: float | None = None

    def add(self, duty: Duty) -> None:
        self._added.append(duty)

    def looked(self, now: float) -> list[Standing]:
        """At `now`, every `LOOK` seconds: those to name, each again after twice the time."""
        while self._added:
            self._steps[self._added.pop()] = _Step(-1, now, 0.0)
        last, self._looked_at = self._looked_at, now
        late = last is None or not 0 <= now - last <= _LATE
        standing = []
        for duty, step in list(self._steps.items()):
            if duty.ended:
                del self._steps[duty]
            elif late or not duty.busy or duty.steps != step.number:
                self._steps[duty] = _Step(duty.steps, now, now + PATIENCE)
            elif now >= step.tell_at:
                seconds = now - step.seen
                standing.append(Standing(duty, seconds, not step.told))
                step.tell_at, step.told = now + seconds, True
        return standing

    def asked(self) -> list[Duty]:
        """Those that are to be asked now whether they go on."""
        found = [duty for duty in self._steps if duty.ask is not None and not duty.busy and not duty.ended]
        for duty in found:
            duty.steps += 1
            duty.busy = True
        return found

    def __len__(self) -> int:
        return len(self._steps) + len(self._added)

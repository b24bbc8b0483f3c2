"""Ways to break schedules and ids: one for each step of their protocols."""

from __future__ import annotations

from typing import Any

import attrs

from flux.consuming.awaited import named_calls as awaited
from flux.consuming.blocking import named_calls as blocking
from flux.core import schedules as core
from flux.core.engine.due_times import DueTimes
from flux.core.engine.queued_work import QueuedWork
from flux.core.named_work import NamedWork, Names
from flux.core.schedules import Step, Tick
from flux.schedules import Ticks
from simulation.mutants import Mutation, mutant
from simulation.scheduled import SCHEDULED

_SCHEDULED = (SCHEDULED,)


@mutant(features=_SCHEDULED)
def a_start_writes_no_tick() -> Mutation:
    return Ticks, "start", lambda self: None


@mutant(features=_SCHEDULED)
def the_next_tick_is_not_written() -> Mutation:
    step = Ticks.step
    return Ticks, "step", lambda self, named: attrs.evolve(step(self, named), then=None)


@mutant("writes", "client broken", features=_SCHEDULED)
def a_tick_is_called_whether_the_next_one_is_stored_or_not() -> Mutation:
    return Ticks, "wait_for_next", lambda self, named, message, tick: self._write(named.name, tick, message)


@mutant("crash", features=_SCHEDULED, first=3)
def the_next_tick_is_written_after_the_call() -> Mutation:
    def of_wanted(handler: Any, ticks: Any) -> Any:
        def call(message: Any) -> Any:
            named = message.named
            if named is None:
                return handler(message)
            if not named.begin():
                named.left_out = True
                return None
            step = Step(True, None) if named.kind != "schedule" else ticks.step(named)
            result = handler(message) if step.call else None
            if step.then is not None:
                ticks.wait_for_next(named, message, step.then)
            return result

        return call

    return blocking, "of_wanted", of_wanted


@mutant(features=_SCHEDULED)
def each_record_of_a_tick_is_called() -> Mutation:
    return NamedWork, "precludes", lambda self, later: self.tick > later.tick


@mutant(features=_SCHEDULED, first=2)
def each_missed_tick_is_called() -> Mutation:
    def write_next(self: Ticks, named: NamedWork) -> Step:
        step, work = found(self, named), self._work.get(named.name)
        if step.then is None or work is None or step.then.at <= named.tick:
            return step
        at = work.schedule.next_tick(named.tick)
        return Step(step.call, Tick(at, at))

    found = Ticks.step
    return Ticks, "step", write_next


@mutant(features=_SCHEDULED)
def a_tick_is_called_however_late_it_is() -> Mutation:
    step = core.step

    def patient(self: Ticks, named: NamedWork) -> Step:
        schedule = attrs.evolve(self._work[named.name].schedule, max_late=None)
        return step(schedule, named.tick, named.last, self._now_ms, self._longest)

    return Ticks, "step", patient


@mutant("join", "stop", "crash", features=_SCHEDULED, first=100)
def what_is_void_waits_until_it_is_due() -> Mutation:
    def named(self: DueTimes, found: NamedWork, assignment: Any, offset: int, due: int, now_ms: int) -> int:
        assignment.names.arrived(found, offset, due)
        return due

    return DueTimes, "_named", named


@mutant("crash", "stop", "join", features=_SCHEDULED)
def records_are_called_before_what_replaces_them_is_read() -> Mutation:
    return QueuedWork, "_withholds", lambda self, assignment, now: False


@mutant("crash", "stop", "join", features=_SCHEDULED, first=13)
def what_is_done_replaces_nothing() -> Mutation:
    return QueuedWork, "_named_and_done", lambda self, assignment, batch, now_ms: []


@mutant(features=_SCHEDULED)
def what_is_replaced_is_called() -> Mutation:
    arrived = Names.arrived

    def keeping(self: Names, work: NamedWork, offset: int, due: int) -> int:
        before = self._last.get((work.kind == "schedule", work.name))
        found = arrived(self, work, offset, due)
        if before is not None and work.kind == "id":
            before.void = False
        return found

    return Names, "arrived", keeping


@mutant(features=_SCHEDULED)
def what_is_cancelled_is_called() -> Mutation:
    arrived = Names.arrived

    def keeping(self: Names, work: NamedWork, offset: int, due: int) -> int:
        before = self._last.get((False, work.name))
        found = arrived(self, work, offset, due)
        if before is not None and work.kind == "cancelled":
            before.void = False
        return found

    return Names, "arrived", keeping


@mutant(features=_SCHEDULED)
def a_cancellation_is_called() -> Mutation:
    arrived = Names.arrived

    def calling(self: Names, work: NamedWork, offset: int, due: int) -> int:
        found = arrived(self, work, offset, due)
        work.void = work.void and work.kind != "cancelled"
        return found

    return Names, "arrived", calling


@mutant(features=_SCHEDULED, first=4)
def work_after_a_cancellation_is_cancelled_too() -> Mutation:
    arrived = Names.arrived

    def cancelling(self: Names, work: NamedWork, offset: int, due: int) -> int:
        before = self._last.get((False, work.name))
        found = arrived(self, work, offset, due)
        work.void = work.void or (before is not None and before.kind == "cancelled")
        return found

    return Names, "arrived", cancelling


@mutant(features=_SCHEDULED)
def what_is_void_is_called_in_an_event_loop() -> Mutation:
    async def begins(message: Any, named: NamedWork, ticks: Any) -> bool:
        named.begin()
        return True

    return awaited, "begins", begins

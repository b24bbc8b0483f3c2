"""When a task's schedules have ticks, and what happens when one is due.

A tick is a record of the first retry topic that is due at its time. Before its call, the next one is written. So there
is always a tick that is not done, and a worker that finds none (the first start) may write one. All workers of a group
compute the same ticks, and of several records of one tick the first counts: see `flux.core.named_work`.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

NextTick = Callable[[int], int]
"""The first tick after a time. Both are milliseconds since the epoch."""
UNKNOWN_KEPT = 3_600_000
"""Milliseconds for which a tick is kept whose schedule is not in this worker's code: another version may have it."""
UNKNOWN_WAIT = 60_000


@attrs.frozen
class Schedule:
    """`when`: the rule as text. `max_late`: how many seconds after its time a tick is still called; None: however late
    it is."""

    name: str
    when: str
    next_tick: NextTick = attrs.field(eq=False)
    max_late: float | None = None

    @property
    def title(self) -> str:
        """Identifies it in records: with another rule it is another schedule."""
        return self.when if self.name == self.when else f"{self.name}: {self.when}"


@attrs.frozen
class Tick:
    """A tick to write. Milliseconds since the epoch; `due` is earlier than `at` if that is further away than records
    may wait."""

    at: int
    due: int


@attrs.frozen
class Step:
    """What to do with a tick that is due: first write `then`, if it is not None, then make the call, if `call`."""

    call: bool
    then: Tick | None


def interval(milliseconds: int) -> NextTick:
    """Ticks at the multiples of an interval since the epoch, the same in all processes."""
    return lambda after: (after // milliseconds + 1) * milliseconds


def first_tick(schedule: Schedule, now_ms: int, max_delay_ms: int) -> Tick:
    """The tick to write at a start."""
    return _tick(schedule.next_tick(now_ms), now_ms, max_delay_ms)


def step(schedule: Schedule | None, tick: int, last: bool, now_ms: int, max_delay_ms: int) -> Step:
    """A tick is due. `schedule` None: this worker's code has none of its title. `last`: whether no later record of its
    schedule was read: otherwise the next tick is written already. Ticks that have passed meanwhile are left out."""
    if schedule is None:
        kept = last and now_ms - tick < UNKNOWN_KEPT
        return Step(False, Tick(tick, now_ms + UNKNOWN_WAIT) if kept else None)
    if now_ms < tick:
        return Step(False, _tick(tick, now_ms, max_delay_ms) if last else None)
    in_time = schedule.max_late is None or now_ms - tick <= schedule.max_late * 1000
    return Step(in_time, _tick(schedule.next_tick(now_ms), now_ms, max_delay_ms) if last else None)


def _tick(at: int, now_ms: int, max_delay_ms: int) -> Tick:
    return Tick(at, min(at, now_ms + max_delay_ms))

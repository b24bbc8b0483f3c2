"""The schedules of a task: the tick that waits, the last one, and those that were missed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.monitoring.report import ScheduleReport
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, System
from flux.core.producing.partitioner import partition_for_key
from flux.core.schedules import Schedule
from flux.core.tick_log import MOST_MISSED, missed_between
from flux.operate.formatting import coming, lasting, many, moment
from flux.operate.waiting import MAX_READ, StageReading, WaitingRow
from flux.system import SYSTEM

_LATE = 5.0
"""Seconds after which a tick counts as late: readers and workers have clocks of their own."""


@attrs.frozen
class ScheduleStatus:
    """Times in milliseconds since the epoch. `when`: the rule; empty: it is not in the code that was read. `next_tick`:
    the one that waits; None: none does. `last_tick`, `started`: the last one, and when its call began; None: not known.
    `called`: False: it was too late for a call. `missed`, `not_called`: ticks since the start of the processes that
    report; without reports those of the last tick."""

    name: str
    when: str
    next_tick: int | None = None
    last_tick: int | None = None
    started: int | None = None
    called: bool = True
    missed: int = 0
    not_called: int = 0

    @property
    def late(self) -> float | None:
        """Seconds from the last tick until its call began."""
        if self.last_tick is None or self.started is None:
            return None
        return max(0.0, (self.started - self.last_tick) / 1000)

    def is_overdue(self, now_ms: int) -> bool:
        """Whether no worker has taken a tick that is due, or none waits."""
        return self.next_tick is None or now_ms - self.next_tick > _LATE * 1000

    def next_in_words(self, now_ms: int) -> str:
        if self.next_tick is None:
            return "no tick waits: start a worker with it" if self.when else "none"
        left = (self.next_tick - now_ms) / 1000
        return f"due for {lasting(-left)}" if left < -_LATE else coming(left)

    @property
    def last_in_words(self) -> str:
        """The last tick, and what became of it."""
        if self.last_tick is None or self.late is None:
            return "not known"
        late = f"{lasting(self.late)} late"
        return f"{moment(self.last_tick)}, {late if self.called else f'not called: {late}'}"

    @property
    def missed_in_words(self) -> str:
        """Empty: none."""
        missed = f"{'≥ ' if self.missed >= MOST_MISSED else ''}{self.missed:,} missed" if self.missed else ""
        late = f"{many(self.not_called, 'tick')} too late for a call" if self.not_called else ""
        return ", ".join(filter(None, (missed, late)))


def waiting_ticks(
    adapter: Cluster, admin: AdminPort, policy: Policy, schedules: Sequence[Schedule], system: System = SYSTEM
) -> list[WaitingRow]:
    """The ticks in the partitions of these schedules. Blocks; raises BrokerError."""
    if not schedules or policy.stages.retries < 1:
        return []
    stage = policy.stages[1]
    info = admin.topics([stage.topic], REQUEST_TIMEOUT)[stage.topic]
    if info is None:
        return []
    only = {partition_for_key(each.title.encode(), info.partitions) for each in schedules}
    reading = StageReading(adapter, admin, policy, stage, int(system.now() * 1000), system)
    return [row for row in reading.rows(MAX_READ, only) if row.schedule]


def schedules_of(
    schedules: Sequence[Schedule], ticks: Iterable[WaitingRow], reports: Iterable[ScheduleReport]
) -> list[ScheduleStatus]:
    """Those of the code, then others that have a tick. `reports`: of all processes."""
    rows = {row.schedule: row for row in sorted(ticks, key=lambda row: -row.tick)}
    by_title: dict[str, list[ScheduleReport]] = {}
    for report in reports:
        by_title.setdefault(report.schedule, []).append(report)
    known = {each.title: each for each in schedules}
    return [
        _status(title, known.get(title), rows.get(title), by_title.get(title, ()))
        for title in [*known, *sorted(rows.keys() - known.keys())]
    ]


def _status(
    title: str, schedule: Schedule | None, row: WaitingRow | None, reports: Sequence[ScheduleReport]
) -> ScheduleStatus:
    name, when = (title, "") if schedule is None else (schedule.name, schedule.when)
    next_tick = None if row is None else row.tick
    last = max(reports, key=lambda each: each.tick, default=None)
    if last is not None:
        missed, not_called = (sum(counts) for counts in zip(*((r.missed, r.not_called) for r in reports), strict=True))
        return ScheduleStatus(name, when, next_tick, last.tick, last.started, last.called, missed, not_called)
    if row is None or row.last_tick is None:
        return ScheduleStatus(name, when, next_tick)
    tick, started = row.last_tick
    if schedule is None:
        return ScheduleStatus(name, when, next_tick, tick, started)
    called = schedule.max_late is None or started - tick <= schedule.max_late * 1000
    return ScheduleStatus(
        name, when, next_tick, tick, started, called, missed_between(schedule, tick, started), int(not called)
    )

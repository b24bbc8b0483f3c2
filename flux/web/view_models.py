"""What a snapshot of a task means for its page: values, computed once for all visitors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from flux.consuming.open_transactions import HeldBack
from flux.core.monitoring.report import Limited
from flux.core.stage import Role, Stage
from flux.operate.held_keys import HeldKeys
from flux.operate.status.blockers import StuckSince, blockers_of, update_stuck
from flux.operate.status.progress import PartitionCrashes
from flux.operate.status.reports import ReceivedReport
from flux.operate.status.schedules import ScheduleStatus
from flux.operate.status.set_rates import TaskRate, rates_of
from flux.operate.status.task_status import (
    Blocker,
    StageStatus,
    TaskPause,
    TaskStatus,
)

MAX_PARTITIONS = 200
"""Rows of a stage: the partitions with the largest lag."""


@attrs.frozen
class PartitionRow:
    """One partition of a stage. `committed` None: nothing is committed; `member`: its owner."""

    number: int
    committed: int | None
    low: int
    end: int
    lag: int
    done_above: int
    member: str
    oldest: str
    """Its oldest unfinished record: offset and attempt, or empty."""
    key: str | None
    attempt: int
    offset: int
    due_in: float | None
    """Seconds until the oldest unfinished record is due; None: it does not wait."""
    why: str
    """Why it is blocked; empty: it is not."""


@attrs.frozen
class StageView:
    """`next_due`: seconds from now, negative: late. Rates per second. None: not known."""

    status: StageStatus
    most: bool
    """Whether the lag may be less."""
    waiting: int
    next_due: float | None
    done: float | None
    failed: float | None
    rows: Sequence[PartitionRow]

    @property
    def stage(self) -> Stage:
        return self.status.stage

    @property
    def lag(self) -> int:
        return self.status.lag

    @property
    def ready(self) -> int:
        """The lag without records that are not due yet."""
        return max(0, self.lag - self.waiting)

    @property
    def members(self) -> int:
        return len(self.status.members)


@attrs.frozen
class Sample:
    """A task at one moment."""

    at: float
    stages: Sequence[StageView]
    dead_letters: int
    most_dead_letters: bool
    """Whether there may be fewer."""
    dead_rate: float | None
    blockers: Sequence[Blocker]
    reports: Sequence[ReceivedReport] | None
    paused: Sequence[TaskPause]
    limited: Sequence[Limited]
    held_back: Sequence[HeldBack]
    crashes: Sequence[PartitionCrashes]
    schedules: Sequence[ScheduleStatus] = ()
    rates_set: Sequence[TaskRate] = ()
    held_keys: HeldKeys | None = None

    @property
    def now_ms(self) -> int:
        return int(self.at * 1000)

    @property
    def lag(self) -> int:
        return sum(each.lag for each in self.stages)

    @property
    def most_lag(self) -> bool:
        return any(each.most for each in self.stages)

    @property
    def ready(self) -> int:
        return sum(each.ready for each in self.stages)

    @property
    def waiting(self) -> int:
        return sum(each.waiting for each in self.stages)

    @property
    def done(self) -> float | None:
        return _sum([each.done for each in self.stages])

    @property
    def failed(self) -> float | None:
        return _sum([each.failed for each in self.stages])

    @property
    def next_due(self) -> float | None:
        return min((each.next_due for each in self.stages if each.next_due is not None), default=None)

    @property
    def members(self) -> int:
        return max((each.members for each in self.stages), default=0)

    @property
    def unattended(self) -> list[Stage]:
        """Stages with lag and without members."""
        return [each.stage for each in self.stages if each.lag and not each.members]

    def values(self) -> Mapping[str, float | None]:
        """For the history; a stage's as `lag:1`."""
        found: dict[str, float | None] = {
            "lag": self.lag,
            "waiting": self.waiting,
            "dead": self.dead_letters,
            "done": self.done,
            "failed": self.failed,
        }
        for each in self.stages:
            found |= {f"lag:{each.stage.number}": each.lag, f"done:{each.stage.number}": each.done}
        return found


def sample(found: TaskStatus, before: TaskStatus | None, stuck_since: StuckSince) -> tuple[Sample, StuckSince]:
    """`before`: the previous snapshot; `stuck_since`: by all before."""
    stuck_since = update_stuck(found, stuck_since)
    blockers = blockers_of(found, stuck_since)
    return Sample(
        found.at,
        [_stage(found, each, before, blockers) for each in found.stages],
        found.dead_letters,
        found.most_dead_letters,
        found.dead_rate(before),
        blockers,
        found.reports,
        found.pauses(),
        found.limited(),
        found.held_back,
        found.crashes,
        found.schedules,
        rates_of(found),
        found.held_keys,
    ), stuck_since


def _stage(found: TaskStatus, each: StageStatus, before: TaskStatus | None, blockers: Sequence[Blocker]) -> StageView:
    speed = found.rates(each, before)
    due = found.next_due(each) if each.exists and each.stage.role is not Role.MAIN and each.lag else None
    return StageView(
        each,
        found.most_lag(each),
        found.waiting(each) if each.exists else 0,
        None if due is None else (due - found.now_ms) / 1000,
        speed.done,
        speed.failed,
        _rows(found, each, {blocker.partition: blocker for blocker in blockers if blocker.stage == each.stage}),
    )


def _rows(found: TaskStatus, each: StageStatus, blockers: Mapping[int, Blocker]) -> list[PartitionRow]:
    owners = {
        at.partition: member.client_id or member.id
        for member in each.members
        for at in member.partitions
        if at.topic == each.stage.topic
    }
    worst = sorted(each.watermarks, key=lambda number: (-each.lag_of(number), number))[:MAX_PARTITIONS]
    return [_row(found, each, number, owners.get(number, ""), blockers.get(number)) for number in sorted(worst)]


def _row(found: TaskStatus, each: StageStatus, number: int, member: str, blocker: Blocker | None) -> PartitionRow:
    mark, stored, oldest = each.watermarks[number], each.committed.get(number), each.oldest_unfinished.get(number)
    waits = oldest is not None and oldest.waits(found.now_ms) and oldest.due is not None
    return PartitionRow(
        number,
        None if stored is None else stored.offset,
        mark.low,
        mark.high,
        each.lag_of(number),
        each.done_above(number),
        member,
        "" if oldest is None else f"offset {oldest.offset:,}, attempt {oldest.attempt}",
        None if oldest is None else oldest.key,
        0 if oldest is None else oldest.attempt,
        -1 if oldest is None else oldest.offset,
        (oldest.due - found.now_ms) / 1000 if waits and oldest is not None and oldest.due is not None else None,
        "" if blocker is None else blocker.why,
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None

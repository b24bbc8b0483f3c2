"""How far a task is, and what holds it back: what the cluster says at one moment, and what two moments say together.

`read_status` asks; the rest are plain functions of what it was told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from flux.consuming.topic_setup import ASK, max_message_bytes
from flux.core.engine.start_offsets import begins_at_ends
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.report import StageReport
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, CommittedOffset, GroupMember, System, TopicPartition, Watermarks
from flux.core.stage import Role, Stage
from flux.operate.status.oldest_unfinished import OldestUnfinished, oldest_unfinished_of, read_first
from flux.operate.status.progress import Progress, lag, read_group
from flux.operate.status.reports import ReceivedReport, read_reports
from flux.system import SYSTEM

_SMALL = 16 * 1024  # bytes of a record that every topic takes


@attrs.frozen
class StageStatus:
    """One stage. By partition, empty where there is no topic: `positions`, `marks`, and `first_young`, the first offset
    younger than the stage's shortest wait. `after`: the next topic; `max_bytes`: the largest batch that it accepts;
    None: not known, or no record is large."""

    stage: Stage
    exists: bool
    positions: Mapping[int, CommittedOffset] = attrs.field(factory=dict)
    marks: Mapping[int, Watermarks] = attrs.field(factory=dict)
    members: Sequence[GroupMember] = ()
    oldest_unfinished: Mapping[int, OldestUnfinished] = attrs.field(factory=dict)
    first_young: Mapping[int, int] = attrs.field(factory=dict)
    after: str = ""
    max_bytes: int | None = None

    @property
    def lag(self) -> int:
        return lag(self.positions, self.marks)

    def behind(self, partition: int) -> int:
        """Of one partition."""
        stored = {n: position for n, position in self.positions.items() if n == partition}
        return lag(stored, {partition: self.marks[partition]})

    @property
    def passed(self) -> int:
        """Offsets that the group is done with, those above its positions included."""
        known = (Progress.of(position) for position in self.positions.values())
        return sum((progress.position or 0) + progress.done_above for progress in known)

    @property
    def end(self) -> int:
        return sum(mark.high for mark in self.marks.values())


@attrs.frozen
class TaskStatus:
    """A task at one moment. `at`: seconds since the epoch; `reports` None: nobody reports; `dead`: its dead letters'
    topic, None where there is none."""

    at: float
    stages: Sequence[StageStatus]
    dead: Mapping[int, Watermarks] | None
    reports: Sequence[ReceivedReport] | None

    @property
    def dead_letters(self) -> int:
        return sum(mark.high - mark.low for mark in (self.dead or {}).values())

    @property
    def now_ms(self) -> int:
        return int(self.at * 1000)


@attrs.frozen
class Rates:
    """A second. None: not known."""

    done: float | None = None
    failed: float | None = None


@attrs.frozen
class Blocker:
    """What a position waits for. `seconds`: for how long, as far as that is known; `process`: where it is."""

    stage: Stage
    partition: int
    oldest: OldestUnfinished
    why: str
    seconds: float | None
    behind: int
    """Offsets behind it that are not done."""
    process: str | None = None

    @property
    def place(self) -> str:
        return f"{self.partition}:{self.oldest.offset}"


def read_status(
    adapter: Cluster, admin: AdminPort, policy: Policy, report_topic: str | None, *, system: System = SYSTEM
) -> TaskStatus:
    """Asks the cluster. Raises BrokerError."""
    names = admin.topic_names(ASK)
    stages = list(policy.stages)
    dead = stages.pop()
    stages += policy.stages.leftovers(names)
    found = [
        _ask(admin, policy, stage, system) if stage.topic in names else StageStatus(stage, False) for stage in stages
    ]
    reports = None
    if report_topic is not None and report_topic in names:
        try:
            reports = read_reports(adapter, admin, report_topic, system)
        except BrokerError as error:
            if error.fault is not Fault.DENIED:
                raise
    return TaskStatus(
        system.now(),
        [_with_next(admin, policy, each) for each in _with_heads(adapter, policy, found, system)],
        admin.watermarks(dead.topic, ASK) if dead.topic in names else None,
        reports,
    )


def _ask(admin: AdminPort, policy: Policy, stage: Stage, system: System) -> StageStatus:
    members, positions = read_group(admin, stage)  # first: an end that is read later is not below a position
    marks = admin.watermarks(stage.topic, ASK)
    first_young: Mapping[int, int] = {}
    if stage.role is not Role.MAIN and lag(positions, marks):
        first_young = admin.offsets_at(stage.topic, int((system.now() - _shortest(policy, stage)) * 1000), ASK)
    return StageStatus(stage, True, positions, marks, members, {}, first_young)


def _shortest(policy: Policy, stage: Stage) -> float:
    try:
        return policy.wait(stage, 0)
    except Exception:  # the task's own function
        return 0.0


def _with_heads(adapter: Cluster, policy: Policy, looks: Sequence[StageStatus], system: System) -> list[StageStatus]:
    """All with one reader: a client takes longer to begin than to read."""
    starts = {
        TopicPartition(each.stage.topic, number): max(mark.low, _position(each, number))
        for each in looks
        for number, mark in each.marks.items()
        if max(mark.low, _position(each, number)) < mark.high and not begins_at_ends(policy, each.stage, each.positions)
    }
    try:
        records = read_first(adapter, starts, system=system)
    except BrokerError as error:
        if error.fault is not Fault.DENIED:
            raise
        records = {}  # a login that may describe and not read is told the rest
    now_ms = int(system.now() * 1000)
    found = []
    for each in looks:
        mine = {at.partition: record for at, record in records.items() if at.topic == each.stage.topic}
        oldest_unfinished = {
            number: oldest_unfinished_of(record, each.stage, policy, now_ms) for number, record in sorted(mine.items())
        }
        found.append(attrs.evolve(each, oldest_unfinished=oldest_unfinished))
    return found


def _with_next(admin: AdminPort, policy: Policy, each: StageStatus) -> StageStatus:
    after = policy.stages.after(each.stage)
    if after is None or all(oldest.size <= _SMALL for oldest in each.oldest_unfinished.values()):
        return each
    try:
        return attrs.evolve(each, after=after.topic, max_bytes=max_message_bytes(admin, after.topic))
    except BrokerError as error:
        if error.fault not in (Fault.DENIED, Fault.UNKNOWN_TOPIC):
            raise
        return each


def _position(each: StageStatus, number: int) -> int:
    stored = each.positions.get(number)
    return 0 if stored is None else stored.offset


# ---- what it means


def stage_reports(found: TaskStatus, stage: Stage) -> list[StageReport]:
    return [told for each in found.reports or () for told in each.of(stage)]


@attrs.frozen
class TaskPause:
    """A process in which the task is paused. `seconds`: for how long until now; `tried_in`: until a record is tried."""

    process: str
    error: str
    seconds: float
    tried_in: float | None


def pauses_of(found: TaskStatus) -> list[TaskPause]:
    """The longest first."""
    named: dict[str, TaskPause] = {}
    for each in found.reports or ():
        for told in (one for looked in found.stages for one in each.of(looked.stage)):
            paused, name = told.paused, each.report.name
            if paused is not None:
                left = None if paused.tried_in is None else max(0.0, paused.tried_in - each.age)
                named[name] = TaskPause(name, paused.error, paused.seconds + each.age, left)
    return sorted(named.values(), key=lambda each: -each.seconds)


def waiting(found: TaskStatus, each: StageStatus) -> int:
    """Records of a retry stage that are not due, about: a partition whose position waits has nothing that is due
    behind it, as due order is offset order; else those younger than the stage's shortest wait, unless the record at
    the position is younger too, and due all the same, as after a replay. At least those that processes hold."""
    if each.stage.role is Role.MAIN:
        return 0
    total = 0
    for number, mark in each.marks.items():
        oldest = each.oldest_unfinished.get(number)
        if oldest is not None and oldest.waits(found.now_ms):
            total += each.behind(number) - Progress.of(each.positions.get(number)).done_above
        elif oldest is not None and oldest.offset < (first_young := each.first_young.get(number, mark.high)):
            total += max(0, mark.high - first_young)
    return max(total, sum(told.waiting for told in stage_reports(found, each.stage)))


def next_due(found: TaskStatus, each: StageStatus) -> int | None:
    """When the next record of a retry stage is due, in milliseconds since the epoch; past: it is late. Of the records
    at the positions and of those that processes hold; None: nothing waits."""
    dues = [oldest.due for oldest in each.oldest_unfinished.values() if oldest.due is not None]
    dues += [
        found.now_ms + int((told.due_in - report.age) * 1000)
        for report in found.reports or ()
        for told in report.of(each.stage)
        if told.due_in is not None
    ]
    return min(dues, default=None)


def rates(found: TaskStatus, each: StageStatus, before: TaskStatus | None) -> Rates:
    """By what processes report; else by how far positions came since the look before, of what failed by what came to
    the next stage. Not known, where it is neither."""
    told = stage_reports(found, each.stage)
    if told:
        return Rates(sum(one.done_rate for one in told), sum(one.failed_rate for one in told))
    if before is None or found.at <= before.at:
        return Rates()
    old = next((one for one in before.stages if one.stage == each.stage), None)
    if old is None or not each.exists:
        return Rates()
    seconds = found.at - before.at
    failed = _came(found, each, seconds, before)
    moved = max(0, each.passed - old.passed) / seconds
    return Rates(max(0.0, moved - (failed or 0.0)), failed)


def _came(found: TaskStatus, each: StageStatus, seconds: float, before: TaskStatus) -> float | None:
    """Records that came to the next stage a second; None: to the dead letters, where all stages' come."""
    number = each.stage.number + 1
    after = next((one for one in found.stages if one.stage.number == number and one.exists), None)
    earlier = next((one for one in before.stages if one.stage.number == number and one.exists), None)
    return None if after is None or earlier is None else max(0, after.end - earlier.end) / seconds


def dead_rate(found: TaskStatus, before: TaskStatus | None) -> float | None:
    """Dead letters that came, a second."""
    if before is None or found.dead is None or before.dead is None or found.at <= before.at:
        return None
    ends = (sum(mark.high for mark in each.values()) for each in (found.dead, before.dead))
    return max(0, next(ends) - next(ends)) / (found.at - before.at)

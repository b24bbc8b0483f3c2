"""A snapshot of a task's stages, and what one snapshot or two mean: lag, waiting records, rates, pauses.

`read_status` queries the cluster; the other functions are pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT, max_message_bytes
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

_SMALL = 16 * 1024  # bytes of a record that every topic accepts


@attrs.frozen
class StageStatus:
    """One stage. By partition, empty where there is no topic: `committed`, `watermarks`, and `first_young`: the first
    offset younger than the stage's shortest wait. `after`: the next topic; `max_bytes`: the largest batch that it
    accepts; None: not known, or no record is large."""

    stage: Stage
    exists: bool
    committed: Mapping[int, CommittedOffset] = attrs.field(factory=dict)
    watermarks: Mapping[int, Watermarks] = attrs.field(factory=dict)
    members: Sequence[GroupMember] = ()
    oldest_unfinished: Mapping[int, OldestUnfinished] = attrs.field(factory=dict)
    first_young: Mapping[int, int] = attrs.field(factory=dict)
    after: str = ""
    max_bytes: int | None = None

    @property
    def lag(self) -> int:
        return lag(self.committed, self.watermarks)

    def lag_of(self, partition: int) -> int:
        stored = {partition: self.committed[partition]} if partition in self.committed else {}
        return lag(stored, {partition: self.watermarks[partition]})

    @property
    def done(self) -> int:
        """Offsets that the group has done, those above the committed offsets included."""
        known = (Progress.of(stored) for stored in self.committed.values())
        return sum((progress.committed or 0) + progress.done_above for progress in known)

    @property
    def end(self) -> int:
        return sum(mark.high for mark in self.watermarks.values())


@attrs.frozen
class TaskStatus:
    """A task at one moment. `at`: seconds since the epoch; `reports` None: no worker reports; `dead`: watermarks of the
    dead-letter topic, None where there is none."""

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

    def reports_of(self, stage: Stage) -> list[StageReport]:
        return [report for each in self.reports or () for report in each.of(stage)]

    def pauses(self) -> list[TaskPause]:
        """The longest first."""
        named: dict[str, TaskPause] = {}
        for each in self.reports or ():
            for report in (one for status in self.stages for one in each.of(status.stage)):
                paused, name = report.paused, each.report.name
                if paused is not None:
                    left = None if paused.tried_in is None else max(0.0, paused.tried_in - each.age)
                    named[name] = TaskPause(name, paused.error, paused.seconds + each.age, left)
        return sorted(named.values(), key=lambda each: -each.seconds)

    def waiting(self, each: StageStatus) -> int:
        """Records of a retry stage that are not due yet, estimated.

        Due order is offset order: while a partition's oldest unfinished record waits, all behind it wait too.
        Otherwise those wait that are younger than the stage's shortest wait, unless that oldest record is young and due
        all the same, as after a replay. Never fewer than the workers report."""
        if each.stage.role is Role.MAIN:
            return 0
        total = 0
        for number, mark in each.watermarks.items():
            oldest = each.oldest_unfinished.get(number)
            if oldest is not None and oldest.waits(self.now_ms):
                total += each.lag_of(number) - Progress.of(each.committed.get(number)).done_above
            elif oldest is not None and oldest.offset < (first_young := each.first_young.get(number, mark.high)):
                total += max(0, mark.high - first_young)
        return max(total, sum(report.waiting for report in self.reports_of(each.stage)))

    def next_due(self, each: StageStatus) -> int | None:
        """When the next record of a retry stage is due, in milliseconds since the epoch: of the oldest unfinished ones
        and of those that workers hold. In the past: it is late. None: no record waits."""
        due_times = [oldest.due for oldest in each.oldest_unfinished.values() if oldest.due is not None]
        due_times += [
            self.now_ms + int((report.due_in - received.age) * 1000)
            for received in self.reports or ()
            for report in received.of(each.stage)
            if report.due_in is not None
        ]
        return min(due_times, default=None)

    def rates(self, each: StageStatus, before: TaskStatus | None) -> Rates:
        """From the workers' reports; without them from how far committed offsets moved since the snapshot `before`, and
        from what arrived in the next stage."""
        reports = self.reports_of(each.stage)
        if reports:
            return Rates(sum(one.done_rate for one in reports), sum(one.failed_rate for one in reports))
        if before is None or self.at <= before.at:
            return Rates()
        old = next((one for one in before.stages if one.stage == each.stage), None)
        if old is None or not each.exists:
            return Rates()
        seconds = self.at - before.at
        failed = self._arrival_rate(each, seconds, before)
        moved = max(0, each.done - old.done) / seconds
        return Rates(max(0.0, moved - (failed or 0.0)), failed)

    def _arrival_rate(self, each: StageStatus, seconds: float, before: TaskStatus) -> float | None:
        """Records per second that arrived in the next stage. None: the dead letters, which come from all stages."""
        number = each.stage.number + 1
        after = next((one for one in self.stages if one.stage.number == number and one.exists), None)
        earlier = next((one for one in before.stages if one.stage.number == number and one.exists), None)
        return None if after is None or earlier is None else max(0, after.end - earlier.end) / seconds

    def dead_rate(self, before: TaskStatus | None) -> float | None:
        """New dead letters per second."""
        if before is None or self.dead is None or before.dead is None or self.at <= before.at:
            return None
        ends = (sum(mark.high for mark in each.values()) for each in (self.dead, before.dead))
        return max(0, next(ends) - next(ends)) / (self.at - before.at)


@attrs.frozen
class TaskPause:
    """A process in which the task is paused. `seconds`: until now; `tried_in`: seconds until the next try."""

    process: str
    error: str
    seconds: float
    tried_in: float | None


@attrs.frozen
class Rates:
    """Records per second. None: not known."""

    done: float | None = None
    failed: float | None = None


@attrs.frozen
class Blocker:
    """A record that blocks a committed offset. `seconds`: for how long, where known; `process`: where it runs."""

    stage: Stage
    partition: int
    oldest: OldestUnfinished
    why: str
    seconds: float | None
    behind: int
    """Later offsets that are not done."""
    process: str | None = None

    @property
    def place(self) -> str:
        return f"{self.partition}:{self.oldest.offset}"


def read_status(
    adapter: Cluster, admin: AdminPort, policy: Policy, report_topic: str | None, *, system: System = SYSTEM
) -> TaskStatus:
    """Queries the cluster. Raises BrokerError."""
    names = admin.topic_names(REQUEST_TIMEOUT)
    stages = list(policy.stages)
    dead = stages.pop()
    stages += policy.stages.leftovers(names)
    found = [
        _read_stage(admin, policy, stage, system) if stage.topic in names else StageStatus(stage, False)
        for stage in stages
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
        [_with_next(admin, policy, each) for each in _with_oldest(adapter, policy, found, system)],
        admin.watermarks(dead.topic, REQUEST_TIMEOUT) if dead.topic in names else None,
        reports,
    )


def _read_stage(admin: AdminPort, policy: Policy, stage: Stage, system: System) -> StageStatus:
    members, committed = read_group(admin, stage)  # before the ends, so that no end is below one
    watermarks = admin.watermarks(stage.topic, REQUEST_TIMEOUT)
    first_young: Mapping[int, int] = {}
    if stage.role is not Role.MAIN and lag(committed, watermarks):
        first_young = admin.offsets_at(
            stage.topic, int((system.now() - _shortest(policy, stage)) * 1000), REQUEST_TIMEOUT
        )
    return StageStatus(stage, True, committed, watermarks, members, {}, first_young)


def _shortest(policy: Policy, stage: Stage) -> float:
    try:
        return policy.wait(stage, 0)
    except Exception:  # the task's own function
        return 0.0


def _with_oldest(adapter: Cluster, policy: Policy, stages: Sequence[StageStatus], system: System) -> list[StageStatus]:
    """Reads all partitions with one reader: starting a client takes longer than reading."""
    starts = {
        TopicPartition(each.stage.topic, number): max(mark.low, _committed(each, number))
        for each in stages
        for number, mark in each.watermarks.items()
        if max(mark.low, _committed(each, number)) < mark.high
        and not begins_at_ends(policy, each.stage, each.committed)
    }
    try:
        records = read_first(adapter, starts, system=system)
    except BrokerError as error:
        if error.fault is not Fault.DENIED:
            raise
        records = {}  # a login that may only describe gets the rest
    now_ms = int(system.now() * 1000)
    found = []
    for each in stages:
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


def _committed(each: StageStatus, number: int) -> int:
    stored = each.committed.get(number)
    return 0 if stored is None else stored.offset

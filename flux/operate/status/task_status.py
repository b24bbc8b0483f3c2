"""A snapshot of a task's stages, and what one snapshot or two mean: lag, waiting records, rates, pauses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import attrs

from flux.consuming.open_transactions import HeldBack
from flux.core.monitoring.report import MOST_LIMITED, Limited, Paused, StageReport, ranges_of
from flux.core.ports import CommittedOffset, GroupMember, Watermarks
from flux.core.stage import Role, Stage
from flux.operate.formatting import lasting
from flux.operate.held_keys import HeldKeys
from flux.operate.status.oldest_unfinished import OldestUnfinished
from flux.operate.status.progress import PartitionCrashes, Progress, crashes_of
from flux.operate.status.records import NOT_EXAMINED, Counted, Gaps
from flux.operate.status.reports import ReceivedReport
from flux.operate.status.schedules import ScheduleStatus


@attrs.frozen
class StageStatus:
    """One stage. By partition, empty where there is no topic: `committed`, `watermarks`, `stable`: the last stable
    offsets, and `first_young`: the first offset younger than the stage's shortest wait. `gaps`: where offsets were
    examined. `after`: the next topic; `max_bytes`: the largest batch that it accepts; None: not known, or no record is
    large."""

    stage: Stage
    exists: bool
    committed: Mapping[int, CommittedOffset] = attrs.field(factory=dict)
    watermarks: Mapping[int, Watermarks] = attrs.field(factory=dict)
    members: Sequence[GroupMember] = ()
    oldest_unfinished: Mapping[int, OldestUnfinished] = attrs.field(factory=dict)
    first_young: Mapping[int, int] = attrs.field(factory=dict)
    after: str = ""
    max_bytes: int | None = None
    stable: Mapping[int, int] = attrs.field(factory=dict)
    gaps: Mapping[int, Gaps] = attrs.field(factory=dict)

    @property
    def lag(self) -> int:
        """In records; where they are not counted, in offsets."""
        return sum(self.lag_of(number) for number in self.watermarks)

    @property
    def counted(self) -> bool:
        """Whether the lag is in records, all of them."""
        return all(self._counted(number) for number in self.watermarks)

    def lag_of(self, partition: int) -> int:
        return self.records(partition, self.start(partition), self.watermarks[partition].high)

    def unfinished_of(self, partition: int) -> int:
        """The lag without what is done above the committed offset."""
        return self.lag_of(partition) - self.done_above(partition)

    def done_above(self, partition: int) -> int:
        """Records done above the committed offset."""
        done = Progress.of(self.committed.get(partition)).done
        return sum(self.records(partition, first, stop) for first, stop in done)

    def records(self, partition: int, start: int, end: int) -> int:
        """Records from `start` on, below `end`; offsets that were not examined count as records."""
        return self.gaps.get(partition, NOT_EXAMINED).records(start, end)

    def start(self, partition: int) -> int:
        """Where the group's unfinished offsets start."""
        stored, low = self.committed.get(partition), self.watermarks[partition].low
        return low if stored is None else max(stored.offset, low)

    def _counted(self, partition: int) -> bool:
        start, high = self.start(partition), self.watermarks[partition].high
        gaps = self.gaps.get(partition, NOT_EXAMINED)
        end = min(high, self.stable.get(partition, high))
        return start >= end or (gaps.start <= start and gaps.end >= end)

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
    """A task at one moment. `at`: seconds since the epoch; `reports` None: no worker reports; `dead`: what the
    dead-letter topic holds, by partition, None where there is none; `exactly_once`: the task writes transactions, which
    leave markers."""

    at: float
    stages: Sequence[StageStatus]
    dead: Mapping[int, Counted] | None
    reports: Sequence[ReceivedReport] | None
    exactly_once: bool = False
    held_back: Sequence[HeldBack] = ()
    rejected: int = 0
    """Of the dead letters, those that are not to be replayed."""
    held_keys: HeldKeys | None = None
    """None: the task keeps no order through retries."""
    schedules: Sequence[ScheduleStatus] = ()

    @property
    def dead_letters(self) -> int:
        """Offsets that are not counted count as dead letters."""
        return sum(each.most for each in (self.dead or {}).values())

    @property
    def most_dead_letters(self) -> bool:
        """Whether there may be fewer dead letters, because markers of transactions are counted."""
        dead = (self.dead or {}).values()
        return (self.exactly_once or any(each.has_gaps for each in dead)) and not all(each.exact for each in dead)

    def most_lag(self, each: StageStatus) -> bool:
        """Whether a stage's lag may be less, because markers of transactions are counted."""
        return (self.exactly_once or any(gaps.ranges for gaps in each.gaps.values())) and not each.counted

    @property
    def crashes(self) -> list[PartitionCrashes]:
        """Of the partitions whose processes have vanished: see `max_crashes`."""
        return [one for each in self.stages for one in crashes_of(each.stage, each.committed)]

    @property
    def now_ms(self) -> int:
        return int(self.at * 1000)

    def reports_of(self, stage: Stage) -> list[StageReport]:
        return [report for each in self.reports or () for report in each.of(stage)]

    def pauses(self) -> list[TaskPause]:
        """The longest first."""
        found = [pause for each in self.reports or () for pause in pauses_of(each, [one.stage for one in self.stages])]
        return sorted(found, key=lambda each: -each.seconds)

    def limited(self) -> list[Limited]:
        """The hosts or tenants with the most records that wait in the memory of all processes, these first."""
        found: Counter[tuple[str, str]] = Counter()
        for report in (report for each in self.stages for report in self.reports_of(each.stage)):
            for limited in report.limited:
                found[limited.setting, limited.name] += limited.records
        return [Limited(*known, records) for known, records in found.most_common(MOST_LIMITED)]

    def waiting(self, each: StageStatus) -> int:
        """Records of a retry stage that are not due yet, estimated.

        Due order is offset order: while a partition's oldest unfinished record waits, all behind it wait too.
        Otherwise those wait that are younger than the stage's shortest wait, unless that oldest record is young and due
        all the same, as after a replay. Not fewer than the workers report, as far as the lag allows: what waited when
        they reported may be done."""
        if each.stage.role is Role.MAIN:
            return 0
        total = 0
        for number, mark in each.watermarks.items():
            oldest = each.oldest_unfinished.get(number)
            if oldest is not None and oldest.waits(self.now_ms):
                total += each.unfinished_of(number)
            elif oldest is not None and oldest.offset < (first_young := each.first_young.get(number, mark.high)):
                total += each.records(number, first_young, mark.high)
        unfinished = sum(each.unfinished_of(number) for number in each.watermarks)
        return max(total, min(unfinished, sum(report.waiting for report in self.reports_of(each.stage))))

    def next_due(self, each: StageStatus) -> int | None:
        """When the next record of a retry stage is due, in milliseconds since the epoch: of the oldest unfinished ones
        and of those that workers hold, unless it has passed since they reported. In the past: it is late. None: no
        record waits."""
        due_times = [oldest.due for oldest in each.oldest_unfinished.values() if oldest.due is not None]
        due_times += [
            self.now_ms + int((report.due_in - received.age) * 1000)
            for received in self.reports or ()
            for report in received.of(each.stage)
            if report.due_in is not None and report.due_in > received.age
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
        if after is None or earlier is None:
            return None
        ends = ((number, earlier.watermarks.get(number, mark).high) for number, mark in after.watermarks.items())
        return sum(after.records(number, end, after.watermarks[number].high) for number, end in ends) / seconds

    def dead_rate(self, before: TaskStatus | None) -> float | None:
        """New dead letters per second."""
        if before is None or self.dead is None or before.dead is None or self.at <= before.at:
            return None
        came = sum(each.since(before.dead[number]) for number, each in self.dead.items() if number in before.dead)
        return came / (self.at - before.at)


@attrs.frozen
class TaskPause:
    """A process in which the task is paused: by an outage, or by somebody's command, of a few stages maybe. `seconds`:
    until now; `tried_in`: seconds until the next try."""

    process: str
    error: str
    """The type of what was raised; for a command, who gave it."""
    seconds: float
    tried_in: float | None
    command: bool = False
    ends_in: float | None = None
    """Seconds until a command ends; None: it does not end by itself."""
    why: str = ""
    stages: str = ""
    """Those that are paused, such as "0,2-4"; empty: all that the process runs."""
    name: str = ""
    """The host or tenant whose calls alone are paused; empty: all calls are."""

    @property
    def end(self) -> str:
        """What ends it."""
        if not self.command:
            return f"next try {f'in {lasting(self.tried_in)}' if self.tried_in else 'now'}"
        return "until flux resume" if self.ends_in is None else f"ends in {lasting(self.ends_in)}"

    @property
    def what(self) -> str:
        """The process, and what is paused there if that is not all."""
        if self.name:
            return f"{self.process}, calls for {self.name}"
        return f"{self.process}, stage {self.stages}" if self.stages else self.process


def pauses_of(received: ReceivedReport, stages: Sequence[Stage]) -> Iterator[TaskPause]:
    """The pauses of a process. `stages`: the task's."""
    own = [report for stage in stages for report in received.of(stage)]
    same: dict[tuple[bool, str, str, str], tuple[Paused, list[int]]] = {}
    for report in own:
        for paused in (*([] if report.paused is None else [report.paused]), *report.paused_names):
            known = paused.commanded, paused.error, paused.why, paused.name
            same.setdefault(known, (paused, []))[1].append(report.stage)
    for paused, numbers in same.values():
        left, ends = (
            None if each is None else max(0.0, each - received.age) for each in (paused.tried_in, paused.ends_in)
        )
        some = paused.commanded and len(numbers) < len(own)
        yield TaskPause(
            received.report.name,
            paused.error,
            paused.seconds + received.age,
            left,
            paused.commanded,
            ends,
            paused.why,
            ranges_of(numbers) if some else "",
            paused.name,
        )


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

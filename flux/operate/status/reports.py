"""The newest report of each worker process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.monitoring.report import EVERY, FRESH, IN_PLACE, Call, Open, Paused, Report, StageReport, within
from flux.core.ports import AdminPort, Cluster, Record, System
from flux.core.stage import Stage
from flux.operate.formatting import many
from flux.operate.reading import read, spans_of
from flux.system import SYSTEM

MAX_READ = 50_000
"""Records: more than ten thousand processes write in a minute."""
_BACK_MS = 60_000
_TIMEOUT = 10.0


@attrs.frozen
class ReceivedReport:
    """`age`: seconds since the report was written."""

    report: Report
    age: float

    def narrowed(
        self, places: Collection[tuple[str, str]], is_done: Callable[[StageReport, int, int], bool]
    ) -> ReceivedReport | None:
        """With the stages of these topics and groups alone, and without calls and open records that are done since
        then. `is_done`: given partition and offset. None: there is no such stage."""
        stages = tuple(
            _without_done(each, is_done) for each in self.report.stages if (each.topic, each.group) in places
        )
        return attrs.evolve(self, report=attrs.evolve(self.report, stages=stages)) if stages else None

    def of(self, stage: Stage) -> list[StageReport]:
        return [each for each in self.report.stages if (each.topic, each.group) == (stage.topic, stage.group)]


@attrs.frozen
class ReportedRecord:
    """What a report says of a record: its call, its forwarded copy, or the pause that it waits for. `seconds`: until
    now."""

    what: Call | Open | Paused
    process: str
    seconds: float

    @property
    def reason(self) -> str:
        """Why the record is not done."""
        what = self.what
        if isinstance(what, Call):
            return "its call is running" + ("" if what.records == 1 else f" with {what.records:,} records")
        if isinstance(what, Paused):
            return f"its task is paused by {what.error}"
        if what.state == IN_PLACE:
            return f"it is tried again in place, after {many(what.failures, 'failure')}"
        if not what.target:
            return "records that its call produced are not acknowledged yet"
        if what.refused:
            return f"{what.target} refuses its copy ({what.refused})"
        failures = f", {many(what.failures, 'failure')}" if what.failures else ""
        return f"its copy for {what.target} is {what.state}{failures}"


def _without_done(stage: StageReport, is_done: Callable[[StageReport, int, int], bool]) -> StageReport:
    calls = tuple(each for each in stage.calls if not is_done(stage, each.partition, each.offset))
    open_ = tuple(each for each in stage.open if not is_done(stage, each.partition, each.offset))
    gone = Counter(each.state == IN_PLACE for each in set(stage.open) - set(open_))
    return attrs.evolve(
        stage,
        calls=calls,
        open=open_,
        in_flight=stage.in_flight - (len(stage.calls) - len(calls)),
        on_their_way=stage.on_their_way - gone[False],
        in_place=stage.in_place - gone[True],
    )


def read_reports(
    adapter: Cluster, admin: AdminPort, topic: str, system: System = SYSTEM
) -> list[ReceivedReport] | None:
    """The newest report of each live process; None: there is no such topic. Raises BrokerError."""
    if admin.topics([topic], REQUEST_TIMEOUT)[topic] is None:
        return None
    now_ms = int(system.now() * 1000)
    spans = spans_of(admin, topic, now_ms - _BACK_MS)
    records: dict[bytes | None, Record] = {}
    count = 0
    for batch in read(adapter, topic, spans, timeout=_TIMEOUT, system=system):
        records |= {record.key(): record for record in batch.records}
        count += len(batch.records)
        if count >= MAX_READ:
            break
    return latest_reports(records.values(), now_ms)


def latest_reports(records: Iterable[Record], now_ms: int) -> list[ReceivedReport]:
    """`records`: in the order in which they were written. A tombstone removes a process; reports that are too old,
    damaged or of an unknown version are ignored."""
    found: dict[bytes | None, ReceivedReport] = {}
    for record in records:
        key, value = record.key(), record.value()
        found.pop(key, None)
        report = None if value is None else Report.from_json(value)
        if report is not None:
            age = max(0.0, (now_ms - record.timestamp()[1]) / 1000)
            if age <= FRESH * max(report.every, EVERY):
                found[key] = ReceivedReport(report, age)
    return sorted(found.values(), key=lambda each: (each.report.host, each.report.process or 0, each.report.pid))


def find_reported(
    reports: Sequence[ReceivedReport], stage: Stage, partition: int, offset: int
) -> ReportedRecord | None:
    """What the reports say of the record at an offset of a stage."""
    for each in reports:
        for report in each.of(stage):
            unfinished: tuple[Call | Open, ...] = (*report.calls, *report.open)
            for what in unfinished:
                if (what.partition, what.offset) == (partition, offset):
                    return ReportedRecord(what, each.report.name, what.seconds + each.age)
            if report.paused is not None and within(report.partitions, partition):
                return ReportedRecord(report.paused, each.report.name, report.paused.seconds + each.age)
    return None

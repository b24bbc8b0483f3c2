"""The processes that report, on all clusters, and their running calls."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from starlette.requests import Request
from starlette.responses import Response

from flux.core.monitoring.report import Call, Report, StageReport
from flux.web.page_context import context_of
from flux.web.watched_tasks import WatchedTask

MAX_CALLS = 50


@attrs.frozen
class CallRow:
    """A running call. `seconds`: until now."""

    process: str
    task: str
    slug: str
    stage: StageReport
    call: Call
    key: str | None
    seconds: float


@attrs.frozen
class Process:
    """`report`: the newest of the process. `stages`: of the tasks of these pages."""

    cluster: str
    report: Report
    age: float
    stages: Sequence[StageReport]
    calls: Sequence[CallRow]

    @property
    def in_flight(self) -> int:
        return sum(stage.in_flight for stage in self.stages)

    @property
    def done(self) -> float:
        return sum(stage.done_rate for stage in self.stages)

    @property
    def failed(self) -> float:
        return sum(stage.failed_rate for stage in self.stages)

    @property
    def longest(self) -> float | None:
        return max((call.seconds for call in self.calls), default=None)

    def with_stages(self, other: Process) -> Process:
        """The same process, with the stages of another task."""
        newest = min(self, other, key=lambda each: each.age)
        stages, calls = [*self.stages, *other.stages], [*self.calls, *other.calls]
        return attrs.evolve(newest, stages=stages, calls=calls)


async def show(request: Request) -> Response:
    context = context_of(request)
    found: dict[tuple[str, bytes], Process] = {}
    slugs: dict[tuple[str, str], str] = {}
    reports_exist = False
    for watch in context.watches.values():
        task = watch.task
        if watch.sample is None or watch.sample.reports is None:
            continue
        reports_exist = True
        for each in watch.sample.reports:
            process = _process(task, each.report, each.age + (watch.age or 0.0))
            slugs |= {(stage.topic, stage.group): task.slug for stage in process.stages}
            key = task.cluster, each.report.key
            found[key] = found[key].with_stages(process) if key in found else process
    processes = list(found.values())
    calls = sorted((call for process in processes for call in process.calls), key=lambda call: -call.seconds)
    return context.page(
        request,
        "workers.html",
        live="sample",
        processes=processes,
        calls=calls[:MAX_CALLS],
        more=len(calls) - MAX_CALLS,
        reports_exist=reports_exist,
        most_memory=max((process.report.memory or 0 for process in processes), default=0),
        slugs=slugs,
    )


def _process(task: WatchedTask, report: Report, age: float) -> Process:
    calls = [
        CallRow(report.name, stage.task, task.slug, stage, call, task.redaction.key(call.key), call.seconds + age)
        for stage in report.stages
        for call in stage.calls
    ]
    return Process(task.cluster, report, age, report.stages, calls)

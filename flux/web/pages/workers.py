"""The processes that report, on all clusters, and their running calls."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from starlette.requests import Request
from starlette.responses import Response

from flux.core.monitoring.report import Call, Report, StageReport
from flux.web.page_context import context_of
from flux.web.redaction import Redaction

MAX_CALLS = 50


@attrs.frozen
class CallRow:
    """A running call. `seconds`: until now."""

    process: str
    task: str
    slug: str | None
    stage: StageReport
    call: Call
    key: str | None
    seconds: float


@attrs.frozen
class Process:
    cluster: str
    report: Report
    age: float

    @property
    def in_flight(self) -> int:
        return sum(stage.in_flight for stage in self.report.stages)

    @property
    def done(self) -> float:
        return sum(stage.done_rate for stage in self.report.stages)

    @property
    def failed(self) -> float:
        return sum(stage.failed_rate for stage in self.report.stages)

    @property
    def longest(self) -> float | None:
        return max((call.seconds + self.age for stage in self.report.stages for call in stage.calls), default=None)


async def show(request: Request) -> Response:
    context = context_of(request)
    found: dict[tuple[str, bytes], Process] = {}
    slugs: dict[tuple[str, str], str] = {}
    redactions: dict[str, Redaction] = {}
    reports_exist = False
    for watch in context.watches.values():
        task = watch.task
        slugs |= {(stage.topic, stage.group): task.slug for stage in task.policy.stages}
        redactions[task.slug] = task.redaction
        if watch.sample is None or watch.sample.reports is None:
            continue
        reports_exist = True
        late = watch.age or 0.0
        for each in watch.sample.reports:
            found.setdefault((task.cluster, each.report.key), Process(task.cluster, each.report, each.age + late))
    processes = list(found.values())
    calls = sorted(
        (
            call
            for process in processes
            for call in _calls(process, slugs, redactions, context.options.redact is not None)
        ),
        key=lambda call: -call.seconds,
    )
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


def _calls(
    process: Process, slugs: Mapping[tuple[str, str], str], redactions: Mapping[str, Redaction], redacted: bool
) -> list[CallRow]:
    found = []
    for stage in process.report.stages:
        slug = slugs.get((stage.topic, stage.group))
        redaction = None if slug is None else redactions[slug]
        for call in stage.calls:
            # the task's own redaction is not known here
            key = redaction.key(call.key) if redaction is not None else None if redacted else call.key
            found.append(CallRow(process.report.name, stage.task, slug, stage, call, key, call.seconds + process.age))
    return found

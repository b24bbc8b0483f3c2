"""One record of the main topic or of a retry topic: what it holds, and what the group has made of it."""

from __future__ import annotations

import attrs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from flux.consuming.topic_setup import ASK
from flux.core.errors import ConfigurationError
from flux.core.ports import TopicPartition
from flux.core.stage import Role, Stage
from flux.operate.messages import state_of
from flux.operate.reading import Span, read_one, spans_of
from flux.operate.status.progress import Progress, ask_group
from flux.operate.trace.record_history import Sighting, sighting_of
from flux.web.page_context import site_of
from flux.web.watched_tasks import Subject


@attrs.frozen
class FoundRecord:
    """`span`: what its partition holds."""

    seen: Sighting
    span: Span
    state: str


async def show(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    subject, at = watch.subject, request.path_params
    stage = await site.ask(_stage, subject, at["stage"])
    if stage is None:
        raise HTTPException(404, f"{subject.name} has no stage {at['stage']} with records to look at")
    found = await site.ask(_read, subject, stage, at["partition"], at["offset"])
    return site.page(
        request,
        "record.html",
        watch=watch,
        subject=subject,
        tab="",
        found=found,
        stage=stage,
        message=found.seen.message,
    )


def _stage(subject: Subject, number: int) -> Stage | None:
    """Blocks; raises BrokerError. Dead letters have a page of their own."""
    stages = [*subject.policy.stages, *subject.policy.stages.leftovers(subject.admin.topic_names(ASK))]
    return next((each for each in stages if each.number == number and each.role is not Role.DEAD), None)


def _read(subject: Subject, stage: Stage, partition: int, offset: int) -> FoundRecord:
    """Blocks; raises ConfigurationError where there is none, BrokerError."""
    _, positions = ask_group(subject.admin, stage)
    span = spans_of(subject.admin, stage.topic).get(partition, Span(0, 0))
    record = None
    if span.start <= offset < span.end:
        record = read_one(subject.adapter, TopicPartition(stage.topic, partition), offset, system=subject.system)
    if record is None:
        raise ConfigurationError(
            f"there is no record at {partition}:{offset} of {stage.topic}: it may be deleted, or a gap"
        )
    progress = Progress.of(positions.get(partition))
    seen = sighting_of(record, stage, subject.policy, progress, subject.now_ms)
    return FoundRecord(seen, span, state_of(seen, subject.now_ms))

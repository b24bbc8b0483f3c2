"""One record of the main topic or of a retry topic, and the search for where a record is and was."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from flux.consuming.topic_setup import ASK
from flux.core.errors import ConfigurationError, FluxError
from flux.core.ports import TopicPartition
from flux.core.stage import Role, Stage
from flux.core.text import one_line
from flux.operate.messages import calls_of, state_of, where
from flux.operate.reading import Span, read_one, spans_of
from flux.operate.status.progress import Progress, ask_group
from flux.operate.trace.record_history import Sighting, WorkHistory, sighting_of
from flux.operate.trace.trace import Bounds, Trace, Wanted, trace
from flux.web.page_context import site_of
from flux.web.query_parameters import AGES, place_of, since_of
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


BOUNDS = Bounds(records=200_000, seconds=15.0)
MOST_WORKS = 20
DEFAULT_SINCE = "1d"


@attrs.frozen
class Told:
    work: WorkHistory
    now: str
    states: Sequence[str]


async def search(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    subject, query = watch.subject, request.query_params
    key, origin = query.get("key", ""), query.get("origin", "").strip()
    since = query.get("since", DEFAULT_SINCE)
    found: Trace | None = None
    works: list[Told] = []
    problem = ""
    try:
        if key or origin:
            wanted = Wanted(origin=place_of(origin)) if origin else Wanted(key=key.encode("utf-8", "surrogateescape"))
            bounds = attrs.evolve(BOUNDS, since_ms=None if origin else since_of({"since": since}, subject.now_ms))
            found, works = await site.ask(_traced, subject, wanted, bounds)
    except FluxError as error:
        problem = one_line(str(error))
    return site.page(
        request,
        "trace.html",
        watch=watch,
        subject=subject,
        tab="trace",
        key=key,
        origin=origin,
        since=since,
        ages=AGES,
        found=found,
        works=works[:MOST_WORKS],
        more=0 if found is None else len(found.works) - MOST_WORKS,
        problem=problem,
        bounds=BOUNDS,
    )


def _traced(subject: Subject, wanted: Wanted, bounds: Bounds) -> tuple[Trace, list[Told]]:
    """Blocks, within its bounds. Raises FluxError."""
    found = trace(subject.adapter, subject.admin, subject.policy, wanted, bounds, system=subject.system)
    calls = calls_of(found, subject.adapter, subject.admin, subject.report_topic)
    now_ms = subject.now_ms
    works = [
        Told(work, where(work, found, calls, now_ms), [state_of(each, now_ms) for each in work.sightings])
        for work in reversed(found.works[-MOST_WORKS - 1 :])  # the newest first
    ]
    return found, works

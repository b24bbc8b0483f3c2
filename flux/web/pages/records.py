"""One record of the main topic or of a retry topic, and the search for where a record is and was."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.errors import ConfigurationError, FluxError
from flux.core.ports import TopicPartition
from flux.core.stage import Role, Stage
from flux.core.text import one_line
from flux.operate.messages import reported_of, state_of, where
from flux.operate.reading import Span, read_one, spans_of
from flux.operate.record_history import RecordHistory, TracedRecord, traced_record_of
from flux.operate.status.progress import Progress, read_group
from flux.operate.trace import TraceLimits, TraceQuery, TraceResult, trace
from flux.web.page_context import context_of
from flux.web.query_parameters import AGES, place_of, since_of
from flux.web.watched_tasks import WatchedTask


@attrs.frozen
class FoundRecord:
    """`span`: the offsets of its partition."""

    seen: TracedRecord
    span: Span
    state: str


async def show(request: Request) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    task, at = watch.task, request.path_params
    stage = await context.in_thread(_stage, task, at["stage"])
    if stage is None:
        raise HTTPException(404, f"{task.name} has no stage {at['stage']} with records")
    found = await context.in_thread(_read, task, stage, at["partition"], at["offset"])
    return context.task_page(
        request,
        watch,
        "",
        "record.html",
        found=found,
        stage=stage,
        message=found.seen.message,
    )


def _stage(task: WatchedTask, number: int) -> Stage | None:
    """Blocks; raises BrokerError. Dead letters have a page of their own."""
    stages = [*task.policy.stages, *task.policy.stages.leftovers(task.admin.topic_names(REQUEST_TIMEOUT))]
    return next((each for each in stages if each.number == number and each.role is not Role.DEAD), None)


def _read(task: WatchedTask, stage: Stage, partition: int, offset: int) -> FoundRecord:
    """Blocks; raises ConfigurationError where there is none, BrokerError."""
    _, committed = read_group(task.admin, stage)
    span = spans_of(task.admin, stage.topic).get(partition, Span(0, 0))
    record = read_one(task.adapter, TopicPartition(stage.topic, partition), offset, span, system=task.system)
    if record is None:
        raise ConfigurationError(
            f"there is no record at {partition}:{offset} of {stage.topic}: it may be deleted, or an offset gap"
        )
    progress = Progress.of(committed.get(partition))
    seen = traced_record_of(record, stage, task.policy, progress, task.now_ms)
    return FoundRecord(seen, span, state_of(seen, task.now_ms))


LIMITS = TraceLimits(records=200_000, seconds=15.0)
MAX_HISTORIES = 20
DEFAULT_SINCE = "1d"


@attrs.frozen
class ShownHistory:
    history: RecordHistory
    now: str
    states: Sequence[str]


async def search(request: Request) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    task, query = watch.task, request.query_params
    key, origin = query.get("key", ""), query.get("origin", "").strip()
    since = query.get("since", DEFAULT_SINCE)
    found: TraceResult | None = None
    histories: list[ShownHistory] = []
    problem = ""
    try:
        if key or origin:
            encoded = key.encode("utf-8", "surrogateescape")
            wanted = TraceQuery(origin=place_of(origin)) if origin else TraceQuery(key=encoded)
            limits = attrs.evolve(LIMITS, since_ms=None if origin else since_of({"since": since}, task.now_ms))
            found, histories = await context.in_thread(_traced, task, wanted, limits)
    except FluxError as error:
        problem = one_line(str(error))
    return context.task_page(
        request,
        watch,
        "trace",
        "trace.html",
        key=key,
        origin=origin,
        since=since,
        ages=AGES,
        found=found,
        histories=histories[:MAX_HISTORIES],
        more=0 if found is None else len(found.histories) - MAX_HISTORIES,
        problem=problem,
        limits=LIMITS,
    )


def _traced(task: WatchedTask, query: TraceQuery, limits: TraceLimits) -> tuple[TraceResult, list[ShownHistory]]:
    """Blocks, within its bounds. Raises FluxError."""
    found = trace(task.adapter, task.admin, task.policy, query, limits, system=task.system)
    reported = reported_of(found, task.adapter, task.admin, task.report_topic)
    now_ms = task.now_ms
    histories = [
        ShownHistory(history, where(history, found, reported), [state_of(each, now_ms) for each in history.records])
        for history in reversed(found.histories[-MAX_HISTORIES - 1 :])  # the newest first
    ]
    return found, histories

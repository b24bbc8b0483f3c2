"""All tasks, and of one task: its stages, what the doctor finds."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from flux.operate.doctor import CHECKS
from flux.web.figures import Line, chart
from flux.web.page_context import context_of
from flux.web.sampler import History
from flux.web.watched_tasks import others_of

MAX_BLOCKERS = 10


async def show_overview(request: Request) -> Response:
    context = context_of(request)
    blockers = [
        (watch, blocker)
        for watch in context.watches.values()
        if watch.sample is not None and not watch.error
        for blocker in watch.sample.blockers
    ]
    blockers.sort(key=lambda pair: -(pair[1].seconds or 0.0))
    total = context.sampler.total if len(context.watches) > 1 else next(iter(context.watches.values())).history
    history, span, problem = await context.history(request, total, [task.name for task in context.tasks])
    return context.page(
        request,
        "overview.html",
        live="sample",
        blockers=blockers[:MAX_BLOCKERS],
        more=len(blockers),
        tiles=tiles(history, _dead(span)),
        range=span,
        no_history=problem,
    )


def _dead(span: str) -> str:
    """What the history of a range has: the metrics of workers count new ones."""
    return "Dead letters per hour" if span else "Dead letters"


def tiles(history: History, dead: str = "Dead letters") -> list[tuple[str, Line, bool]]:
    """(label, line, whether it is a rate)"""
    return [
        ("Done per second", Line("done", "done", history.of("done")), True),
        ("Failed per second", Line("failed", "failed", history.of("failed")), True),
        ("Lag", Line("lag", "lag", history.of("lag")), False),
        ("Waiting for a retry", Line("waiting", "waiting", history.of("waiting")), False),
        (dead, Line("dead letters", "dead", history.of("dead")), False),
    ]


def figures(history: History, dead: str = "Dead letters") -> list[object]:
    """The charts of a task."""
    return [
        chart(
            "Calls per second",
            [Line("done", "done", history.of("done")), Line("failed", "failed", history.of("failed"))],
            per_second=True,
        ),
        chart("Lag", [Line("records", "lag", history.of("lag"))]),
        chart("Waiting for a retry", [Line("records", "waiting", history.of("waiting"))]),
        chart(dead, [Line("records", "dead", history.of("dead"))]),
    ]


MAX_TASK_BLOCKERS = 50


async def show_task(request: Request) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    history, span, problem = await context.history(request, watch.history, [watch.task.name])
    return context.task_page(
        request,
        watch,
        "task",
        "task.html",
        live="sample",
        charts=figures(history, _dead(span)),
        range=span,
        no_history=problem,
        max_blockers=MAX_TASK_BLOCKERS,
    )


async def show_doctor(request: Request) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    task = watch.task
    facts, findings = await context.in_thread(task.examined, others_of(task, context.tasks))
    named = {finding.check for finding in findings} | ({"clock"} if facts.clock is None else set())
    return context.task_page(
        request,
        watch,
        "doctor",
        "doctor.html",
        facts=facts,
        findings=findings,
        passed=[name for name in CHECKS if name not in named],
    )

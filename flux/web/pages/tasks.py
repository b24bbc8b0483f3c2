"""All tasks, and of one task: its stages, what waits for a retry, what the doctor finds."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from flux.operate.doctor import CHECKS
from flux.web.charts import Line, chart
from flux.web.page_context import site_of
from flux.web.sampler import History
from flux.web.watched_tasks import beside

MOST_HELD = 10


async def show_overview(request: Request) -> Response:
    site = site_of(request)
    held = [
        (watch, hold)
        for watch in site.watches.values()
        if watch.sample is not None and not watch.error
        for hold in watch.sample.held
    ]
    held.sort(key=lambda pair: -(pair[1].seconds or 0.0))
    total = site.sampler.total if len(site.watches) > 1 else next(iter(site.watches.values())).history
    return site.page(request, "overview.html", live="sample", held=held[:MOST_HELD], more=len(held), tiles=tiles(total))


def tiles(history: History) -> list[tuple[str, Line, bool]]:
    """(name, values, whether they are a second)"""
    return [
        ("Done a second", Line("done", "done", history.of("done")), True),
        ("Failed a second", Line("failed", "failed", history.of("failed")), True),
        ("Behind", Line("behind", "lag", history.of("lag")), False),
        ("Waiting", Line("waiting", "waiting", history.of("waiting")), False),
        ("Dead letters", Line("dead letters", "dead", history.of("dead")), False),
    ]


def figures(history: History) -> list[object]:
    """The larger charts of a task."""
    return [
        chart(
            "Calls a second",
            [Line("done", "done", history.of("done")), Line("failed", "failed", history.of("failed"))],
            per_second=True,
        ),
        chart("Behind", [Line("records", "lag", history.of("lag"))]),
        chart("Waiting for a retry", [Line("records", "waiting", history.of("waiting"))]),
        chart("Dead letters", [Line("records", "dead", history.of("dead"))]),
    ]


MOST_HELD = 50


async def show_task(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    return site.page(
        request,
        "task.html",
        live="sample",
        watch=watch,
        subject=watch.subject,
        tab="task",
        charts=figures(watch.history),
        most_held=MOST_HELD,
    )


async def show_waiting(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    queue = await site.ask(site.dues[watch.subject.slug].queue)
    return site.page(
        request,
        "waiting.html",
        live="sample",
        watch=watch,
        subject=watch.subject,
        tab="waiting",
        queue=queue,
        most=max((count for _, count in queue.steps), default=0),
    )


async def show_doctor(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    subject = watch.subject
    facts, findings = await site.ask(subject.examined, beside(subject, site.subjects))
    named = {finding.check for finding in findings} | ({"clock"} if facts.clock is None else set())
    return site.page(
        request,
        "doctor.html",
        watch=watch,
        subject=subject,
        tab="doctor",
        facts=facts,
        findings=findings,
        sound=[name for name in CHECKS if name not in named],
    )

"""All tasks at a glance."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from flux.web.charts import Line, chart
from flux.web.history import History
from flux.web.page_context import site_of

MOST_HELD = 10


async def show(request: Request) -> Response:
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

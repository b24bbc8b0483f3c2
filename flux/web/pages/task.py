"""One task: its stages, partitions and members, and what holds them back."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from flux.web.page_context import site_of
from flux.web.pages.overview import figures

MOST_HELD = 50


async def show(request: Request) -> Response:
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

"""What waits in the retry topics, by when it is due."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from flux.web.page_context import site_of


async def show(request: Request) -> Response:
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

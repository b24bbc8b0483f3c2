"""Server-sent events: tells browsers that there is something new, and they ask for what they show."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from flux.web.page_context import Site, site_of

MOST_STREAMS = 200
_HEARTBEAT = 15.0
"""Seconds: a proxy gives up a connection on which nothing moves."""


async def stream(request: Request) -> Response:
    site = site_of(request)
    if site.streams >= MOST_STREAMS:
        raise HTTPException(503, "too many browsers listen: close some of these pages")
    return StreamingResponse(events(site), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def events(site: Site) -> AsyncIterator[str]:
    """Until the site closes."""
    site.streams += 1
    try:
        heard = site.bell.number
        yield "retry: 2000\n\n"
        while not site.bell.closed:
            number = await site.bell.heard(heard, _HEARTBEAT)
            yield ": nothing new\n\n" if number == heard else f"event: news\ndata: {number}\n\n"
            heard = number
    finally:
        site.streams -= 1

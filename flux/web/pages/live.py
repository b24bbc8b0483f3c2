"""Server-sent events: browsers are notified of news and load their page again."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from flux.web.page_context import PageContext, context_of

MAX_STREAMS = 200
_HEARTBEAT = 15.0
"""Seconds: proxies close idle connections."""


async def stream(request: Request) -> Response:
    context = context_of(request)
    if context.streams >= MAX_STREAMS:
        raise HTTPException(503, "too many open pages: close some")
    return StreamingResponse(events(context), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def events(context: PageContext) -> AsyncIterator[str]:
    """Until the server stops."""
    context.streams += 1
    try:
        seen = context.broadcast.number
        yield "retry: 2000\n\n"
        while not context.broadcast.closed:
            number = await context.broadcast.wait(seen, _HEARTBEAT)
            yield ": nothing new\n\n" if number == seen else f"event: news\ndata: {number}\n\n"
            seen = number
    finally:
        context.streams -= 1

"""Server-sent events: browsers are notified of news and load their page again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

MAX_STREAMS = 200
_HEARTBEAT = 15.0
"""Seconds: proxies close idle connections."""


class Broadcast:
    """`notify` from any thread; `wait` in the event loop that called `attach`. `number` counts notifications, `streams`
    the open event streams."""

    def __init__(self) -> None:
        self.number = 0
        self.closed = False
        self.streams = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    def attach(self) -> None:
        self._loop = asyncio.get_running_loop()

    def notify(self) -> None:
        self.number += 1
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Ends all waits."""
        self.closed = True
        self.notify()

    async def wait(self, after: int, timeout: float) -> int:
        """Returns the number as soon as it differs from `after`, at the latest after `timeout` seconds."""
        if self.number == after and not self.closed:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(future, timeout)
            finally:
                self._waiting.discard(future)
        return self.number

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


async def stream(request: Request) -> Response:
    broadcast: Broadcast = request.app.state.context.broadcast
    if broadcast.streams >= MAX_STREAMS:
        raise HTTPException(503, "too many open pages: close some")
    return StreamingResponse(events(broadcast), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def events(broadcast: Broadcast) -> AsyncIterator[str]:
    """Until the server stops."""
    broadcast.streams += 1
    try:
        seen = broadcast.number
        yield "retry: 2000\n\n"
        while not broadcast.closed:
            number = await broadcast.wait(seen, _HEARTBEAT)
            yield ": nothing new\n\n" if number == seen else f"event: news\ndata: {number}\n\n"
            seen = number
    finally:
        broadcast.streams -= 1

"""Notifies open event streams that there is something new."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Broadcast:
    """`notify` from any thread; `wait` in the event loop that called `attach`. `number` counts notifications."""

    def __init__(self) -> None:
        self.number = 0
        self.closed = False
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

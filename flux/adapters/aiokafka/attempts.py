"""Attempts to reach something, which must not become a storm of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_FIRST = 0.1  # seconds, doubled with each attempt that failed
_LONGEST = 1.0


class Attempts(Generic[T]):
    """One attempt at a time, with a pause after each that failed. Whoever asks meanwhile shares its end, and whoever
    gives up waiting leaves it to the others. Used in one event loop."""

    def __init__(self) -> None:
        self.failed = 0
        """How many have failed since the last that did not."""
        self._going: asyncio.Task[T] | None = None
        self._not_before = 0.0

    async def shared(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What the attempt gives, this caller's or the one that is under way, or raises."""
        if self._going is None or self._going.done():
            self._going = asyncio.get_running_loop().create_task(self._made(attempt))
            self._going.add_done_callback(_heard)
        return await asyncio.shield(self._going)

    def end(self) -> None:
        if self._going is not None:
            self._going.cancel()

    async def _made(self, attempt: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._not_before - loop.time()))
        try:
            made = await attempt()
        except BaseException:
            self._not_before = loop.time() + min(_FIRST * 2.0 ** min(self.failed, 16), _LONGEST)
            self.failed += 1
            raise
        self.failed = 0
        return made


def _heard(task: asyncio.Task[T]) -> None:
    """Perhaps by nobody else."""
    if not task.cancelled():
        task.exception()

"""Threads of flux's own, for what would block an event loop.

The loop's default executor has few, and the user's calls share them: when all are taken by those, nothing of flux's
that goes through it gets on, the poll loop included.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

from flux.core.ports import System

Result = TypeVar("Result")

_IDLE = 5.0  # seconds that a thread waits for something to do


class SideThreads:
    """As many daemon threads as there are things done at once. Thread-safe."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._changed = system.condition()
        self._jobs: deque[Callable[[], object]] = deque()
        self._idle = 0

    def post(self, job: Callable[[], object]) -> None:
        """Does it soon. It must not raise."""
        with self._changed:
            self._jobs.append(job)
            if len(self._jobs) <= self._idle:
                self._changed.notify()
                return
        self._system.spawn("flux-beside", self._live)

    async def run(self, function: Callable[..., Result], *given: Any) -> Result:
        """What `function` returns or raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def end(result: Any, error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def job() -> None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = function(*given)
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(end, result, error)

        self.post(job)
        return await done

    def _live(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._idle += 1
                    self._changed.wait(_IDLE)
                    self._idle -= 1
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            Context().run(job)  # whose call a thread was made in is not its


def directly(function: Callable[..., Result], *given: Any) -> Result:
    """As `SideThreads.run`, by whoever asks, who may wait."""
    return function(*given)

"""Threads for blocking work beside an event loop.

The loop's default executor has few threads, which users' calls share. If they took all of them, flux's own work, the
poll loop included, would wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, Generic, TypeVar

from flux.core.ports import System

Result = TypeVar("Result")

_IDLE = 5.0  # seconds that an idle thread lives


class SideThreads:
    """As many daemon threads as jobs run at once. Thread-safe."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._changed = system.condition()
        self._jobs: deque[Callable[[], object]] = deque()
        self._idle = 0

    def post(self, job: Callable[[], object]) -> None:
        """Runs a job soon. It must not raise."""
        with self._changed:
            self._jobs.append(job)
            if len(self._jobs) <= self._idle:
                self._changed.notify()
                return
        self._system.spawn("flux-beside", self._live)

    def run(self, function: Callable[..., Result], *given: Any) -> asyncio.Future[Result]:
        """Runs `function` on a thread at once; a future of its result or its exception. Within an event loop."""
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
        return done

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
            Context().run(job)  # a thread must not inherit the context of the call that started it
            del job  # else the idle thread would keep what it refers to, such as an ended worker


def directly(function: Callable[..., Result], *given: Any) -> Result:
    """As `SideThreads.run`, on the calling thread."""
    return function(*given)


T = TypeVar("T")


class Aside(Generic[T]):
    """Runs a step that may wait for a cluster on its own thread, so that the caller can stop waiting. Starts at once.
    The thread is a daemon, so the process can end without it."""

    def __init__(self, system: System, name: str, step: Callable[[], T]) -> None:
        self._system = system
        self._step = step
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._changed = system.condition()
        self.ended = False
        system.spawn(name, self._run)

    def _run(self) -> None:
        try:
            self._results.append(self._step())
        except BaseException as error:
            self._error = error
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def result(self, timeout: float) -> T:
        """Waits up to `timeout` seconds. Raises TimeoutError, or the exception of the step."""
        deadline = self._system.monotonic() + timeout
        with self._changed:
            while not self.ended and (left := deadline - self._system.monotonic()) > 0:
                self._changed.wait(left)
        if self._error is not None:
            raise self._error
        if not self._results:
            raise TimeoutError
        return self._results[0]

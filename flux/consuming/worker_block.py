"""A worker in a `with` block of the user's program: it starts, works beside the block, and stops at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flux.consuming.life_driver import LifeDriver, outlasted
from flux.core.error_text import brief
from flux.core.errors import ConfigurationError, WorkerFailed
from flux.core.ports import System
from flux.system import forks

_LOOK = 1.0  # seconds


class WorkerBlock:
    """`with` runs the worker on a thread, `async with` in the running event loop. `failed`: the failure of a task."""

    def __init__(self, driver: LifeDriver, system: System, failed: Callable[[], BaseException | None]) -> None:
        self._driver = driver
        self._system = system
        self._failed = failed
        self._cond = system.condition()
        self._work: asyncio.Task[None] | None = None
        self._begun = False
        self._settled = False
        """It has started, its cluster is unavailable, or it has ended."""
        self._notify_loop: Callable[[], object] = lambda: None
        self._generation = forks.generation
        self._error: BaseException | None = None
        self._code = 0
        self.held = False
        """The testing kit runs the tasks, so the block starts nothing."""
        self.ended = False

    @property
    def failure(self) -> BaseException | None:
        """Why the worker has ended, or is ending, without having been stopped."""
        if self._error is None and self._failed() is None and self._code == 1:
            return WorkerFailed("records are left that the next topic refuses; the log names them")
        return self._error or self._failed()

    def settled(self) -> None:
        """The block may begin."""
        with self._cond:
            self._settled = True
            self._cond.notify_all()
        self._notify_loop()

    # ---- with

    def enter(self, held: bool) -> None:
        """Returns when the worker has started, or its cluster is unavailable. Raises what keeps it from starting."""
        if asyncio._get_running_loop() is not None:
            raise ConfigurationError("in a running event loop, a worker's block begins with async with")
        if self._begin(held):
            return
        self._system.spawn("flux-worker", self._run)
        self._outlast(lambda: self._settled)
        self._raise_refusal()

    def leave(self) -> None:
        """Stops the worker, and waits for its end."""
        if forks.generation == self._generation:  # else its threads are in another process
            self._outlast(lambda: self.ended, stop=True)

    def wait(self, timeout: float | None) -> bool:
        """Whether it ends within `timeout` seconds; None: waits for as long as it takes. Raises WorkerFailed."""
        deadline = None if timeout is None else self._system.monotonic() + timeout
        with self._cond:
            while self._begun and not self.ended:
                left = _LOOK if deadline is None else min(_LOOK, deadline - self._system.monotonic())
                if left <= 0:
                    return False
                self._cond.wait(left)
        self.raise_failure()
        return True

    def _run(self) -> None:
        try:
            self._code = self._driver.run()
        except BaseException as error:
            self._error = error
        self._end()

    def _outlast(self, true: Callable[[], bool], stop: bool = False) -> None:
        """Waits until it is true. What a signal handler raises stops the worker, the second time at once, and is raised
        at its end."""
        raised: BaseException | None = None
        while True:
            try:
                if stop:
                    self._driver.stop()
                with self._cond:
                    while not (self.ended if raised else true()):
                        self._cond.wait(_LOOK)
                break
            except BaseException as error:
                raised, stop = error, True
                self._driver.supervision.at_once = self._driver.supervision.stopping
        if raised is not None:
            raise raised

    # ---- async with

    async def aenter(self, held: bool) -> None:
        """`enter` in the running event loop."""
        if self._begin(held):
            return
        loop, settled = asyncio.get_running_loop(), asyncio.Event()
        self._notify_loop = lambda: loop.is_closed() or loop.call_soon_threadsafe(settled.set)
        self._work = loop.create_task(self._run_async(), name="flux-worker")
        try:
            await settled.wait()
        except asyncio.CancelledError:
            await self.aleave()
            raise
        self._raise_refusal()

    async def aleave(self) -> None:
        """`leave` in the running event loop."""
        self._driver.stop()
        if self._work is not None:
            await outlasted(self._work, self._driver.stop)

    async def wait_async(self) -> None:
        """Waits for its end. Raises WorkerFailed."""
        if self._work is not None:
            await asyncio.shield(self._work)
        self.raise_failure()

    async def _run_async(self) -> None:
        try:
            self._code = await self._driver.run_async()
        except asyncio.CancelledError:
            self._end()
            raise
        except BaseException as error:
            self._error = error
        self._end()

    # ---- both

    def _begin(self, held: bool) -> bool:
        if self._begun:
            raise ConfigurationError("a worker works once: make another one for another block")
        self._begun, self._generation = True, forks.generation
        self.held = self.ended = held
        return held

    def _end(self) -> None:
        with self._cond:
            self.ended = self._settled = True
            self._cond.notify_all()
        self._notify_loop()

    def _raise_refusal(self) -> None:
        if self._error is not None:
            raise self._error

    def raise_failure(self) -> None:
        """Raises WorkerFailed if it has failed."""
        failure = self.failure
        if isinstance(failure, WorkerFailed):
            raise failure
        if failure is not None:
            raise WorkerFailed(f"the worker has failed: {brief(failure)}") from failure

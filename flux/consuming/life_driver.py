"""Performs the life of a worker: on the calling thread, or in the running event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from flux.consuming.awaited import worker_loop as awaited_loop
from flux.consuming.blocking import worker_loop as blocking_loop
from flux.consuming.side_threads import SideThreads, directly
from flux.consuming.supervision import Life, Supervision
from flux.core.monitoring.duties import Duty
from flux.core.ports import System
from flux.producing.scope import CarryingExecutor
from flux.system import forks
from flux.system.process_end import ending, install_stop_handler

T = TypeVar("T")

_TICK = 0.2  # seconds


class LifeDriver:
    """`needs_loop`: whether a handler or a client of the worker needs an event loop."""

    def __init__(self, supervision: Supervision, system: System, needs_loop: bool) -> None:
        self.supervision = supervision
        self.life: Callable[[], Life] = supervision.life
        self._system = system
        self._needs_loop = needs_loop
        self._cond = system.condition()
        self._changed = False
        self._notify_loop: Callable[[], None] = lambda: None
        self._loop: tuple[asyncio.AbstractEventLoop, int] | None = None
        """The event loop in which it runs, and that loop's thread."""
        self._restore_signals: Callable[[], None] = lambda: None
        self._forked = False
        forks.watch(self)

    def run(self) -> int:
        """Performs the life on this thread, in an event loop of its own if it needs one. In the main thread, signals
        stop it. Returns the exit code."""
        with self._signals():
            if self._needs_loop:
                return asyncio.run(self._run_own_loop())
            return self.perform(self.life())

    async def _run_own_loop(self) -> int:
        asyncio.get_running_loop().set_default_executor(CarryingExecutor(thread_name_prefix="asyncio"))
        return await self.run_async()

    async def run_async(self) -> int:
        """Performs the life in the running event loop. A cancellation stops it, and is raised at its end."""
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def notify_loop() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        self._notify_loop, self._loop = notify_loop, (loop, threading.get_ident())
        duty = Duty(
            "the event loop of the worker",
            probe=lambda: loop.call_soon_threadsafe(duty.rest),
            thread=threading.get_ident(),
        )
        self._system.watch(duty)
        try:
            code = await outlasted(loop.create_task(self._perform_async(self.life(), changed)), self.stop)
        finally:
            duty.end()
        self._loop = None
        return code

    def perform(self, life: Life) -> int:
        return blocking_loop.live(life, wait=self._wait, here=directly, beside=directly, went_on=self._went_on)

    def stop(self) -> None:
        """Starts the shutdown and returns at once."""
        self.supervision.stopping = True
        if not ending():  # else no thread is left to notify, and the lock may be held for ever
            self.notify()

    def notify(self) -> None:
        """Something has changed."""
        with self._cond:
            self._changed = True
            self._cond.notify_all()
        self._notify_loop()

    def _wait(self) -> None:
        with self._cond:
            if not self._changed:
                self._cond.wait(_TICK)
            self._changed = False

    async def _perform_async(self, life: Life, changed: asyncio.Event) -> int:
        async def wait() -> None:
            try:
                async with asyncio.timeout(_TICK):
                    await changed.wait()
            except TimeoutError:
                pass
            changed.clear()

        async def here(step: Callable[[], Any]) -> Any:
            result = step()
            return await result if inspect.isawaitable(result) else result

        beside = SideThreads(self._system).run
        return await awaited_loop.live(life, wait=wait, here=here, beside=beside, went_on=self._went_on)

    def _went_on(self) -> None:
        if self._forked:
            forks.end_of_child()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _: FrameType | None) -> None:
            # No lock: the handler runs between two instructions of a thread that may hold it.
            self.supervision.at_once = self.supervision.stopping
            self.supervision.stopping = True

        self._restore_signals = install_stop_handler(handle)
        try:
            yield
        finally:
            self._restore_signals()

    # ---- a child process forked in a call

    def forked(self) -> None:
        """Called in the child, which is no worker: restores its signal handlers, and ends it when the call returns."""
        self._forked = True
        self._restore_signals()
        if self._loop is not None and self._loop[1] == threading.get_ident():
            forks.end_loop(self._loop[0])


async def outlasted(work: asyncio.Task[T], stop: Callable[[], None]) -> T:
    """The result of `work`. A cancellation calls `stop`, and is raised when `work` has ended."""
    cancelled = False
    while True:
        try:
            result = await asyncio.shield(work)
            break
        except asyncio.CancelledError:
            if work.done():
                raise
            cancelled = True
            stop()
    if cancelled:
        raise asyncio.CancelledError
    return result

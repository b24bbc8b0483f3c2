"""The event loop of clients that are called from threads: one daemon thread for each adapter and process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import Any, TypeVar

from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.duties import Duty
from flux.core.ports import System
from flux.system import forks

Result = TypeVar("Result")

_GRACE = 5.0  # seconds that a cancelled request may take to end


class EventLoopThread:
    """Starts its thread with the first call. Thread-safe."""

    def __init__(self, system: System) -> None:
        self.process = os.getpid()
        self._system = system
        self._lock = system.condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        forks.watch(self)

    def start(self) -> None:
        """Raises RuntimeError where the interpreter no longer starts threads."""
        self._running()

    def post(self, callback: Callable[[], object]) -> None:
        """Calls it soon, in the loop."""
        loop = self._running()
        try:
            loop.call_soon_threadsafe(callback)
        except BaseException:
            loop.call_soon_threadsafe(_nothing)  # a signal handler may have raised before the loop was woken
            raise

    def run(self, request: Callable[[], Coroutine[Any, Any, Result]], timeout: float) -> Result:
        """The coroutine's result. Raises TimeoutError after `timeout` seconds."""

        async def bounded() -> Result:
            async with asyncio.timeout(max(timeout, 0)):
                return await request()

        future = asyncio.run_coroutine_threadsafe(bounded(), self._running())
        try:
            return future.result(max(timeout, 0) + _GRACE)
        except TimeoutError:
            future.cancel()
            raise

    def check(self) -> None:
        """Raises BrokerError in a process that inherited this."""
        if os.getpid() != self.process:
            raise BrokerError("a client of aiokafka belongs to the process that made it: make another", Fault.FATAL)

    def forked(self) -> None:
        """Called in a child. One that the loop's own thread forked, in a token provider, must not run the loop."""
        if self._loop is not None and self._thread == get_ident():
            forks.end_loop(self._loop)

    def _running(self) -> asyncio.AbstractEventLoop:
        self.check()
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                duty = Duty("the event loop of aiokafka's clients", probe=lambda: loop.call_soon_threadsafe(respond))

                def respond() -> None:
                    duty.thread = self._thread = get_ident()
                    duty.rest()

                loop.call_soon(respond)
                self._system.spawn("flux-aiokafka", loop.run_forever)
                self._loop = loop
                self._system.watch(duty)
            return self._loop


def _nothing() -> None:
    pass

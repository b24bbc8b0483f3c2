"""Polls if the handler is awaited, the client runs in an event loop, or both, and hands runs to callers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from flux.consuming.awaited.consumer_loop import AsyncConsumerLoop
from flux.consuming.blocking.consumer_loop import ConsumerLoop
from flux.consuming.callers import Callers, error_of
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.coordinator.resting import RestingThreads
from flux.consuming.driver_threads import Watcher, consumer_loops
from flux.consuming.side_threads import SideThreads
from flux.core.ports import Adapter, AdminPort, AsyncAdapter
from flux.system.tracebacks import stack_of_task

_WRITE = 30.0  # seconds that polling waits for forwarded copies to be written


class LoopPollers:
    """Polls an asyncio client in the running event loop."""

    def __init__(self, coordinator: Coordinator, callers: Callers, adapter: AsyncAdapter, admin: AdminPort) -> None:
        self._coordinator = coordinator
        self._callers = callers
        self._loop = asyncio.get_running_loop()
        self._facts = 0
        self._resting: dict[asyncio.Event, int] = {}
        """Futures that wait for a fact, with the number of facts before."""
        self._side_threads = SideThreads(coordinator.system)
        self._loops = [
            AsyncConsumerLoop(
                coordinator,
                runtime,
                adapter,
                admin,
                rest=self._rest,
                write=self._write,
                ask=self._side_threads.run,
                begin=callers.begin,
                cancel=callers.cancel,
            )
            for runtime in coordinator.runtimes
        ]
        self._tasks: set[asyncio.Task[None]] = set()
        self._told = False
        coordinator.driver.wake_locked = self._wake_locked
        coordinator.driver.join_locked = lambda runtime: self._loop.call_soon_threadsafe(self._poll, runtime)
        coordinator.driver.freed = callers.freed

    def start(self) -> None:
        """Joins the groups and starts polling."""
        for runtime in [each for each in self._coordinator.runtimes if not each.dormant]:
            self._poll(runtime)
        self._begin(self._watch(), "flux-watch", None)

    def _poll(self, runtime: StageRuntime) -> None:
        loop = next(loop for loop in self._loops if loop.runtime is runtime)
        polling = self._begin(loop.poll(), f"flux-poll-{runtime}", runtime)
        runtime.polling.stack = partial(stack_of_task, polling)

    def _begin(self, work: Coroutine[Any, Any, None], name: str, runtime: StageRuntime | None) -> asyncio.Task[None]:
        """`runtime`: the stage that is abandoned when this task ends."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = error_of(task)
            if error is not None:
                self._coordinator.ending.fail(error)
                if runtime is not None:
                    self._coordinator.ending.has_left(runtime)

        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    def _wake_locked(self, needed: int) -> None:
        self._callers.more_locked()
        self._facts += 1
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told = False
        for fact, before in self._resting.items():
            if self._facts > before:  # otherwise it is a fact that the waiting task has reported itself
                fact.set()

    async def _rest(self, timeout: float, facts: int | None = None) -> None:
        fact = asyncio.Event()
        self._resting[fact] = self._facts
        try:
            if self._coordinator.has_missed(facts):  # checked now, because any later fact sets `fact`
                return
            async with asyncio.timeout(timeout):
                await fact.wait()
        except TimeoutError:
            pass
        finally:
            del self._resting[fact]

    async def _write(self, runtime: StageRuntime) -> None:
        """The write of a forwarded copy may query the cluster or wait for room. If it is stuck, another thread
        continues, and polling goes on."""
        if not runtime.engine.open_forwards:
            self._coordinator.procedures.write(runtime)
            return
        await asyncio.wait([self._side_threads.run(self._written, runtime)], timeout=_WRITE)

    def _written(self, runtime: StageRuntime) -> None:
        try:
            self._coordinator.procedures.write(runtime)
        except Exception as error:
            self._coordinator.ending.fail(error)

    async def _watch(self) -> None:
        try:
            while (waits := self._coordinator.next_check_in()) is not None:
                pause, facts = waits
                await (asyncio.sleep(pause) if facts is None else self._rest(pause, facts))
                self._coordinator.check()
        except Exception as error:
            self._coordinator.ending.fail(error)


class ThreadPollers:
    """Polls a blocking client: each stage has a polling thread, which makes no calls."""

    def __init__(self, coordinator: Coordinator, callers: Callers, adapter: Adapter, admin: AdminPort) -> None:
        self._coordinator = coordinator
        self._callers = callers
        self._resting = RestingThreads(coordinator)
        self._loops = consumer_loops(coordinator, adapter, admin, self._resting.rest, callers.begin, callers.cancel)
        self._holders: dict[ConsumerLoop, object] = {}
        """The token of the thread that polls."""
        self._watcher = Watcher(coordinator, self._resting.rest)
        coordinator.driver.wake_locked = self._wake_locked
        coordinator.driver.join_locked = self._join_locked
        coordinator.driver.freed = self._freed

    def start(self) -> None:
        """Joins the groups and starts polling."""
        for loop in [each for each in self._loops if not each.runtime.dormant]:
            self._begin(loop)
        self._watcher.start()

    def _join_locked(self, runtime: StageRuntime) -> None:
        self._begin(next(loop for loop in self._loops if loop.runtime is runtime))

    def _begin(self, loop: ConsumerLoop) -> None:
        token = self._holders[loop] = object()
        self._coordinator.ending.spawn(
            f"flux-poll-{loop.runtime}", lambda: loop.poll(lambda: self._holders[loop] is token)
        )

    def _freed(self, thread: int) -> None:
        self._callers.freed(thread)
        for loop in self._loops:
            if loop.gives_up(thread):
                self._begin(loop)

    def _wake_locked(self, needed: int) -> None:
        self._callers.more_locked()
        self._resting.notify_locked()

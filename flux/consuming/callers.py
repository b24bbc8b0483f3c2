"""Makes the calls of pollers' runs if the handler is awaited, the client runs in an event loop, or both.

While calls are quick there is one run at a time, and one asyncio task makes all of its calls. When a run is found
stuck, polling continues beside it, and more callers take single records.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from flux.consuming.awaited.executor import complete
from flux.consuming.call_results import AsyncCall, Call
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.driver_threads import CallerThreads
from flux.consuming.side_threads import SideThreads
from flux.core.engine.runs import Run
from flux.system.tracebacks import stack_of_task


class Callers(Protocol):
    """The interface of both kinds of callers. Any thread may call its methods."""

    def begin(self, runtime: StageRuntime, run: Run) -> None: ...
    def more_locked(self) -> None:
        """There may be runs to take."""
        ...

    def cancel(self, runtime: StageRuntime) -> None:
        """Cancels the calls of a stage, if they can be cancelled."""
        ...

    def freed(self, thread: int) -> None:
        """A thread is stuck in a write, and others write in its place."""
        ...


class TaskCallers:
    """Calls awaited handlers, as tasks of one event loop. `call`: makes the calls of a run."""

    def __init__(self, coordinator: Coordinator, call: AsyncCall, loop: asyncio.AbstractEventLoop) -> None:
        self._coordinator = coordinator
        self._make = call
        self._loop = loop
        self._tasks: dict[asyncio.Task[None], tuple[StageRuntime, Run]] = {}
        self._called = False
        self._writes: set[StageRuntime] = set()
        self._side_threads = SideThreads(coordinator.system)
        coordinator.driver.write_soon = self._write_soon
        coordinator.driver.stack_of = self._stack

    def _stack(self, run: Run) -> str:
        task = next((task for task, (_, its) in list(self._tasks.items()) if its is run), None)
        return "" if task is None else stack_of_task(task)

    def begin(self, runtime: StageRuntime, run: Run) -> None:
        self._soon(lambda: self._start(runtime, run))

    def more_locked(self) -> None:
        if not self._called and self._coordinator.ready_locked():
            self._called = True
            self._soon(self._take)

    def cancel(self, runtime: StageRuntime) -> None:
        self._soon(lambda: self._cancel(runtime))

    def _write_soon(self, runtime: StageRuntime) -> None:
        """A write may query the cluster or wait for room, so it must not run in the event loop."""
        if runtime not in self._writes:
            self._writes.add(runtime)
            self._side_threads.post(lambda: self._write(runtime))

    def _write(self, runtime: StageRuntime) -> None:
        self._writes.discard(runtime)
        with self._coordinator.ending.failing():
            self._coordinator.procedures.write(runtime)

    def _soon(self, function: Callable[[], object]) -> None:
        def call() -> None:
            with self._coordinator.ending.failing():
                function()

        self._loop.call_soon_threadsafe(call)

    def _take(self) -> None:
        self._called = False
        while True:
            taken = self._coordinator.take_any()
            if taken is None:
                return
            self._start(*taken)

    def _start(self, runtime: StageRuntime, run: Run) -> None:
        task = self._loop.create_task(self._call(runtime, run), name=f"flux-{runtime}")
        self._tasks[task] = (runtime, run)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        given, error = self._tasks.pop(task, None), error_of(task)
        if given is not None and error is not None:
            self._coordinator.broke(*given, error)

    def freed(self, thread: int) -> None:
        """The task made no calls."""

    async def _call(self, runtime: StageRuntime, run: Run) -> None:
        coordinator, me = self._coordinator, asyncio.current_task()
        assert me is not None
        while True:
            await complete(coordinator, self._make, runtime, run, may_lapse=True)
            taken = coordinator.take_any()
            if taken is None:
                return
            self._tasks[me] = runtime, run = taken
            await asyncio.sleep(0)

    def _cancel(self, runtime: StageRuntime) -> None:
        for task, (of, run) in list(self._tasks.items()):
            if of is runtime:
                self._coordinator.abort(runtime, run)
                task.cancel()


class ThreadCallers:
    """Calls blocking handlers on threads, so that the event loop stays free. `call`: makes the calls of a run."""

    def __init__(self, coordinator: Coordinator, call: Call) -> None:
        self._coordinator = coordinator
        self._runs = CallerThreads(coordinator, call)
        self._given: deque[tuple[StageRuntime, Run]] = deque()
        self._condition = coordinator.system.condition()
        self._threads = 0
        self._idle = 0
        self._wanted = 0
        self._most = coordinator.policy.concurrency

    def freed(self, thread: int) -> None:
        stuck = self._runs.runs_of(thread)
        with self._condition:
            if stuck and self._runs.replace(thread):
                self._threads -= 1
        self._coordinator.excuse(stuck)

    def begin(self, runtime: StageRuntime, run: Run) -> None:
        with self._condition:
            self._given.append((runtime, run))
            self._call_up_locked(len(self._given) + self._wanted)

    def more_locked(self) -> None:
        ready = self._coordinator.ready_locked()
        if ready or self._coordinator.ending.ended:
            with self._condition:
                self._wanted = max(self._wanted, ready)
                self._call_up_locked(len(self._given) + self._wanted if ready else self._threads)

    def cancel(self, runtime: StageRuntime) -> None:
        """A thread cannot be cancelled."""

    def _call_up_locked(self, needed: int) -> None:
        """Starts enough threads for all runs: an idle thread that was woken counts as idle until it has taken one."""
        self._condition.notify(needed)
        for _ in range(min(needed - self._idle, self._most - self._threads)):
            self._coordinator.ending.spawn(f"flux-{self._coordinator.runtimes[0]}-{self._threads}", self._live)
            self._threads += 1

    def _live(self) -> None:
        while not self._coordinator.ending.ended:
            with self._condition:
                taken = self._given.popleft() if self._given else None
                if taken is None and not self._wanted:
                    self._idle += 1
                    self._condition.wait(1.0)
                    self._idle -= 1
                    continue
                if taken is None:
                    self._wanted -= 1
            while True:
                if taken is None:
                    taken = self._coordinator.take_any()
                    if taken is None:
                        break
                self._runs.work(*taken, may_lapse=True)
                if self._runs.is_replaced():
                    return
                taken = None


def error_of(task: asyncio.Task[None]) -> BaseException | None:
    """The exception of an ended task."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()

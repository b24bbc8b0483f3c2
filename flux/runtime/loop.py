"""The drivers of an event loop: handlers that are awaited, clients of asyncio, or both.

Pollers hand runs on to callers. While calls are quick there is one run at a time, which one task works from end to end
with no task per record; when it is found stuck, polling goes on beside it, and further callers take single records.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from flux.core.ports import Adapter, AdminPort, AsyncAdapter
from flux.core.runs import Run
from flux.runtime.awaited.consumer_loop import AsyncConsumerLoop
from flux.runtime.beside import Beside, directly
from flux.runtime.blocking.consumer_loop import ConsumerLoop
from flux.runtime.call_results import AsyncCall, Call
from flux.runtime.caller_threads import CallerThreads
from flux.runtime.coordinator import Coordinator, StageRuntime
from flux.runtime.coordinator.resting import RestingThreads
from flux.runtime.traces import stack_of_task
from flux.runtime.watching import Watcher

_WRITE = 30.0  # seconds that polling waits for hops to be written


class Callers(Protocol):
    """Who makes the calls that a poller hands on. Methods are called from any thread."""

    def begin(self, post: StageRuntime, run: Run) -> None: ...
    def more_locked(self) -> None:
        """There may be runs that nobody has taken."""
        ...

    def cancel(self, post: StageRuntime) -> None:
        """Gives up the calls of a stage, where that can be done."""
        ...

    def freed(self, thread: int) -> None:
        """A thread stands still in a write, which others do in its place."""
        ...


class TaskCallers:
    """Handlers that are awaited, as tasks of one event loop. `call`: makes the calls of a run."""

    def __init__(self, desk: Coordinator, call: AsyncCall, loop: asyncio.AbstractEventLoop) -> None:
        self._desk = desk
        self._make = call
        self._loop = loop
        self._tasks: dict[asyncio.Task[None], tuple[StageRuntime, Run]] = {}
        self._called = False
        self._writes: set[StageRuntime] = set()
        self._beside = Beside(desk.system)
        desk.driver.write_soon = self._write_soon
        desk.driver.stack_of = self._stack

    def _stack(self, run: Run) -> str:
        task = next((task for task, (_, its) in list(self._tasks.items()) if its is run), None)
        return "" if task is None else stack_of_task(task)

    def begin(self, post: StageRuntime, run: Run) -> None:
        self._soon(lambda: self._start(post, run))

    def more_locked(self) -> None:
        if not self._called and self._desk.ready_locked():
            self._called = True
            self._soon(self._take)

    def cancel(self, post: StageRuntime) -> None:
        self._soon(lambda: self._cancel(post))

    def _write_soon(self, post: StageRuntime) -> None:
        """A write may ask the cluster for the target's partitions, or wait for room: not in the event loop."""
        if post not in self._writes:
            self._writes.add(post)
            self._beside.post(lambda: self._write(post))

    def _write(self, post: StageRuntime) -> None:
        self._writes.discard(post)
        with self._desk.ending.failing():
            self._desk.procedures.write(post)

    def _soon(self, function: Callable[[], object]) -> None:
        def call() -> None:
            with self._desk.ending.failing():
                function()

        self._loop.call_soon_threadsafe(call)

    def _take(self) -> None:
        self._called = False
        while True:
            taken = self._desk.take_any()
            if taken is None:
                return
            self._start(*taken)

    def _start(self, post: StageRuntime, run: Run) -> None:
        task = self._loop.create_task(self._call(post, run), name=f"flux-{post}")
        self._tasks[task] = (post, run)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        given, error = self._tasks.pop(task, None), _error_of(task)
        if given is not None and error is not None:
            self._desk.broke(*given, error)

    def freed(self, thread: int) -> None:
        """It made no calls."""

    async def _call(self, post: StageRuntime, run: Run) -> None:
        desk, me = self._desk, asyncio.current_task()
        assert me is not None
        while True:
            lapsed = desk.has_lapsed(run)
            failure = None if lapsed else await self._make(post, run)
            desk.finished(post, run, failure)
            taken = desk.take_any()
            if taken is None:
                return
            self._tasks[me] = post, run = taken
            await asyncio.sleep(0)

    def _cancel(self, post: StageRuntime) -> None:
        for task, (of, run) in list(self._tasks.items()):
            if of is post:
                self._desk.abort(post, run)
                task.cancel()


class ThreadCallers:
    """Handlers that block, on threads of their own: the event loop stays free. `call`: makes the calls of a run."""

    def __init__(self, desk: Coordinator, call: Call) -> None:
        self._desk = desk
        self._runs = CallerThreads(desk, call)
        self._given: deque[tuple[StageRuntime, Run]] = deque()
        self._condition = desk.system.condition()
        self._threads = 0
        self._idle = 0
        self._wanted = 0
        self._most = desk.policy.concurrency

    def freed(self, thread: int) -> None:
        stuck = self._runs.runs_of(thread)
        with self._condition:
            self._most += len(stuck)
        self._desk.excuse(stuck)

    def begin(self, post: StageRuntime, run: Run) -> None:
        with self._condition:
            self._given.append((post, run))
            self._call_up_locked(len(self._given) + self._wanted)

    def more_locked(self) -> None:
        ready = self._desk.ready_locked()
        if ready or self._desk.ending.ended:
            with self._condition:
                self._wanted = max(self._wanted, ready)
                self._call_up_locked(len(self._given) + self._wanted if ready else self._threads)

    def cancel(self, post: StageRuntime) -> None:
        """A thread cannot be cancelled."""

    def _call_up_locked(self, needed: int) -> None:
        """For all that is to be done: an idle thread that was woken counts as idle until it has taken something."""
        self._condition.notify(needed)
        for _ in range(min(needed - self._idle, self._most - self._threads)):
            self._desk.ending.spawn(f"flux-{self._desk.runtimes[0]}-{self._threads}", self._live)
            self._threads += 1

    def _live(self) -> None:
        while not self._desk.ending.ended:
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
                    taken = self._desk.take_any()
                    if taken is None:
                        break
                self._runs.work(*taken, may_lapse=True)
                taken = None


class LoopPollers:
    """A client of asyncio: polls in the running event loop."""

    def __init__(self, desk: Coordinator, callers: Callers, adapter: AsyncAdapter, admin: AdminPort) -> None:
        self._desk = desk
        self._callers = callers
        self._loop = asyncio.get_running_loop()
        self._facts = 0
        self._resting: dict[asyncio.Event, int] = {}
        """Those that wait for a fact, with the number of facts before."""
        self._beside = Beside(desk.system)
        self._loops = [
            AsyncConsumerLoop(
                desk,
                post,
                adapter,
                admin,
                rest=self._rest,
                write=self._write,
                ask=self._beside.run,
                begin=callers.begin,
                cancel=callers.cancel,
            )
            for post in desk.runtimes
        ]
        self._tasks: set[asyncio.Task[None]] = set()
        self._told = False
        desk.driver.wake_locked = self._wake_locked
        desk.driver.freed = callers.freed

    def start(self) -> None:
        """Joins the groups and begins to work."""
        for loop in self._loops:
            polling = self._begin(loop.poll(), f"flux-poll-{loop.post}", loop.post)
            loop.post.polling.stack = partial(stack_of_task, polling)
        self._begin(self._watch(), "flux-watch", None)

    def _begin(self, work: Coroutine[Any, Any, None], name: str, post: StageRuntime | None) -> asyncio.Task[None]:
        """`post`: the stage that is left to its fate with the end of this task."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = _error_of(task)
            if error is not None:
                self._desk.ending.fail(error)
                if post is not None:
                    self._desk.ending.has_left(post)

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
            if self._facts > before:  # else it is what the resting one has told others itself
                fact.set()

    async def _rest(self, timeout: float, facts: int | None = None) -> None:
        fact = asyncio.Event()
        self._resting[fact] = self._facts
        try:
            if self._desk.has_missed(facts):  # asked now, as whatever comes later sets `fact`
                return
            async with asyncio.timeout(timeout):
                await fact.wait()
        except TimeoutError:
            pass
        finally:
            del self._resting[fact]

    async def _write(self, post: StageRuntime) -> None:
        """A hop's write may ask the cluster for the target's partitions, or wait for room. One that stands still is
        another thread's to go on with, and polling goes on."""
        if not post.engine.has_hops:
            self._desk.procedures.write(post)
            return
        writing = asyncio.ensure_future(self._beside.run(self._written, post))
        await asyncio.wait([writing], timeout=_WRITE)

    def _written(self, post: StageRuntime) -> None:
        try:
            self._desk.procedures.write(post)
        except Exception as error:
            self._desk.ending.fail(error)

    async def _watch(self) -> None:
        try:
            while (pause := self._desk.looks_in()) is not None:
                await asyncio.sleep(pause)
                self._desk.look()
        except Exception as error:
            self._desk.ending.fail(error)


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


class ThreadPollers:
    """A client that blocks: each stage is polled by a thread of its own, which makes no calls."""

    def __init__(self, desk: Coordinator, callers: Callers, adapter: Adapter, admin: AdminPort) -> None:
        self._desk = desk
        self._callers = callers
        self._resting = RestingThreads(desk)
        self._loops = [
            ConsumerLoop(
                desk,
                post,
                adapter,
                admin,
                rest=self._resting.rest,
                write=desk.procedures.write,
                ask=directly,
                begin=callers.begin,
                cancel=callers.cancel,
            )
            for post in desk.runtimes
        ]
        self._holders: dict[ConsumerLoop, object] = {}
        """The token of the thread that polls."""
        self._watcher = Watcher(desk)
        desk.driver.wake_locked = self._wake_locked
        desk.driver.freed = self._freed

    def start(self) -> None:
        """Joins the groups and begins to work."""
        for loop in self._loops:
            self._begin(loop)
        self._watcher.start()

    def _begin(self, loop: ConsumerLoop) -> None:
        token = self._holders[loop] = object()
        self._desk.ending.spawn(f"flux-poll-{loop.post}", lambda: loop.poll(lambda: self._holders[loop] is token))

    def _freed(self, thread: int) -> None:
        self._callers.freed(thread)
        for loop in self._loops:
            if loop.writes == thread:
                loop.writes = None
                self._begin(loop)

    def _wake_locked(self, needed: int) -> None:
        self._callers.more_locked()
        self._resting.tell_locked()

"""A machine of its own: threads are greenlets, time is a number, and a seed decides who runs next.

Everything that waits goes through `Machine.park`; everything that may be interrupted through `Machine.point`. The hub
picks the next thread among those that can run, and moves the time on when there is none. Threads belong to processes;
a process can be killed, or frozen for a while, at any point.

Time that passes without anything happening is cheap: what waits in short rounds (a poll, a watcher) is woken late then,
twice as late each time, as on a busy machine, and in time again once something happens (`touch`).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import attrs
from greenlet import GreenletExit, getcurrent, greenlet

EPOCH = 1_800_000_000.0
SWITCH = 0.000_01
"""Seconds that pass whenever another thread runs."""
MOST_STEPS = 1_000_000


class Killed(GreenletExit):  # type: ignore[misc]
    """What a thread hears that the machine has no more use for: at the end of the simulation."""


@attrs.define(eq=False)
class Process:
    """Threads that live and die together."""

    name: str
    machine: Machine
    offset: float = 0.0
    """Seconds that its wall clock is ahead."""
    dead: bool = False
    frozen: bool = False
    held: list[Thread] = attrs.field(factory=list)
    """Its threads that could run if it were not frozen."""
    on_enter: Callable[[], None] = lambda: None
    """Called when one of its threads runs after one of another process."""

    def now(self) -> float:
        return EPOCH + self.machine.time + self.offset


class Thread:
    """`flux.core.ports.Thread`."""

    __slots__ = ("alive", "greenlet", "inside", "name", "process")

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.alive = True
        self.greenlet: greenlet = None
        self.inside = 0
        """Locks of the broker that it holds: it is not interrupted then, as the broker is no part of its process."""

    def join(self, timeout: float | None = None) -> None:
        machine = self.process.machine
        until = math.inf if timeout is None else machine.time + timeout
        while self.alive and machine.time < until:
            machine.park(min(0.01, until - machine.time))

    def is_alive(self) -> bool:
        return self.alive


class Ticket:
    """One waiting of one thread."""

    __slots__ = ("ended", "nominal", "thread", "timed_out")

    def __init__(self, thread: Thread) -> None:
        self.thread = thread
        self.ended = False
        self.timed_out = False
        self.nominal = 0.0


class Machine:
    """`switching`: how likely a thread is interrupted at a point; `longest_round`: seconds that what waits in rounds is
    woken late at most."""

    def __init__(self, seed: object, switching: float, longest_round: float) -> None:
        self.random = random.Random(f"{seed}/schedule")
        self.time = 0.0
        self.steps = 0
        self.threads: list[Thread] = []
        self.current: Thread | None = None
        self.errors: list[tuple[Thread, BaseException]] = []
        self.over = False
        self._hub = getcurrent()
        self._switching = switching
        self._longest_round = longest_round
        self._runnable: list[Thread] = []
        self._timers: list[tuple[float, int, Any]] = []
        self._fuses: list[tuple[int, int, Callable[[], None]]] = []
        self._fuse = math.inf
        self._number = itertools.count()
        self._touched = 0.0
        self._late: list[Ticket] = []
        self._last: Process | None = None

    # ---- for threads

    def spawn(self, name: str, target: Callable[[], None], process: Process | None = None) -> Thread:
        if self.over:
            raise Killed
        if process is None:
            assert self.current is not None
            process = self.current.process
        thread = Thread(name, process)

        def run() -> None:
            try:
                target()
            except GreenletExit:
                pass
            except BaseException as error:
                self.errors.append((thread, error))
            finally:
                thread.alive = False

        thread.greenlet = greenlet(run, self._hub)
        self.threads.append(thread)
        self._runnable.append(thread)
        return thread

    def point(self) -> None:
        """Here the running thread may be interrupted."""
        thread = self.current
        if thread is None or thread.inside:
            return
        if self.over:
            raise Killed
        self.steps += 1
        if self.steps >= self._fuse or self.random.random() < self._switching:
            self._runnable.append(thread)
            self._switch(thread)

    def park(self, timeout: float | None = None, rounds: bool = False) -> Ticket:
        """Waits until woken, or for `timeout` seconds. `rounds`: the caller waits in short rounds."""
        thread = self.current
        if self.over or thread is None:
            raise Killed
        ticket = Ticket(thread)
        self.begin(ticket, timeout, rounds)
        self._switch(thread)
        return ticket

    def begin(self, ticket: Ticket, timeout: float | None, rounds: bool) -> None:
        if timeout is None:
            return
        when = ticket.nominal = self.time + max(timeout, 0.0)
        if rounds:
            late = self.time + min(self.time - self._touched, self._longest_round)
            if late > when:
                when = late
                self._late.append(ticket)
        heapq.heappush(self._timers, (when, next(self._number), ticket))

    def wake(self, ticket: Ticket) -> None:
        if not ticket.ended:
            ticket.ended = True
            self._ready(ticket.thread)

    def _switch(self, thread: Thread) -> None:
        loop = asyncio._get_running_loop()
        if loop is not None:
            task = _swap_task(loop, None)
            asyncio._set_running_loop(None)
        self._hub.switch()
        if self.over:
            raise Killed
        if loop is not None:
            asyncio._set_running_loop(loop)
            _swap_task(loop, task)

    # ---- for the simulation

    def touch(self) -> None:
        """Something has happened: nobody is late any more."""
        self._touched = self.time
        late, self._late = self._late, []
        for ticket in late:
            if not ticket.ended:
                heapq.heappush(self._timers, (max(ticket.nominal, self.time), next(self._number), ticket))

    @property
    def quiet(self) -> float:
        """Seconds since something has happened."""
        return self.time - self._touched

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Calls `action` in the hub, at the time `when`. It must not wait."""
        heapq.heappush(self._timers, (max(when, self.time), next(self._number), action))

    def after_steps(self, steps: int, action: Callable[[], None]) -> None:
        """Calls `action` in the hub, `steps` points from now, or when nobody can run."""
        heapq.heappush(self._fuses, (self.steps + steps, next(self._number), action))
        self._fuse = self._fuses[0][0]

    def kill(self, process: Process) -> None:
        """Nothing of it runs any more."""
        process.dead = True
        process.held.clear()

    def freeze(self, process: Process) -> None:
        process.frozen = True

    def thaw(self, process: Process) -> None:
        process.frozen = False
        self._runnable += process.held
        process.held.clear()

    def run(self, ended: Callable[[], bool]) -> None:
        """Runs threads until `ended`. Raises the first error that left a thread."""
        runnable, timers = self._runnable, self._timers
        while not ended():
            if self.errors:
                raise self.errors[0][1]
            if self.steps > MOST_STEPS:
                raise RuntimeError(f"{MOST_STEPS} steps, and no end")
            self.time += SWITCH
            while timers and timers[0][0] <= self.time:
                self._expire(heapq.heappop(timers)[2])
            while self._fuses and (self._fuses[0][0] <= self.steps or not runnable):
                heapq.heappop(self._fuses)[2]()
            self._fuse = self._fuses[0][0] if self._fuses else math.inf
            if not runnable:
                if ended():
                    return
                if not timers:
                    raise RuntimeError("every thread waits for ever")
                self.time = max(self.time, timers[0][0])
                continue
            at = int(self.random.random() * len(runnable))
            thread = runnable[at]
            runnable[at] = runnable[-1]
            runnable.pop()
            process = thread.process
            if process.dead:
                continue
            if process.frozen:
                process.held.append(thread)
                continue
            if process is not self._last:
                self._last = process
                process.on_enter()
            self.current = thread
            thread.greenlet.switch()
            self.current = None

    def _expire(self, what: Ticket | Callable[[], None]) -> None:
        if not isinstance(what, Ticket):
            what()
        elif not what.ended:
            what.ended = what.timed_out = True
            self._ready(what.thread)

    def _ready(self, thread: Thread) -> None:
        if not thread.process.dead:
            self._runnable.append(thread)

    def end(self) -> None:
        """Lets all threads go. What they still do on their way out touches nothing."""
        self.over = True
        asyncio._set_running_loop(None)
        for thread in self.threads:
            for _ in range(100):
                if thread.greenlet.dead:
                    break
                thread.greenlet.throw(Killed)
        self.threads.clear()
        self._timers.clear()
        self._fuses.clear()
        self._late.clear()


def _swap_task(loop: Any, task: Any) -> Any:
    """Event loops of several greenlets share a thread: what asyncio keeps by thread, or by loop, is taken along."""
    swap = getattr(asyncio.tasks, "_swap_current_task", None)
    if swap is not None:
        return swap(loop, task)
    tasks = asyncio.tasks._current_tasks  # type: ignore[attr-defined]
    before = tasks.pop(loop, None)
    if task is not None:
        tasks[loop] = task
    return before

"""`flux.core.ports.System` on a simulated machine, and what else of Python's threads flux uses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
from greenlet import getcurrent

from flux.core.monitoring.duties import Duty
from simulation.machine import Killed, Machine, Process, Thread, Ticket


class Condition:
    """`flux.core.ports.Condition`. `broker`: one of the broker's, which nobody is interrupted in."""

    __slots__ = ("_blocked", "_broker", "_machine", "_owner", "_waiting")

    def __init__(self, machine: Machine, broker: bool = False) -> None:
        self._machine = machine
        self._broker = broker
        self._owner: Thread | None = None
        self._blocked: deque[Ticket] = deque()
        self._waiting: deque[Ticket] = deque()

    def __enter__(self) -> Condition:
        machine = self._machine
        if machine.over:
            return self
        machine.point()
        self._acquire()
        return self

    def _acquire(self) -> None:
        machine = self._machine
        thread = machine.current
        while self._owner is not None:
            assert self._owner is not thread, "a lock is taken twice by one thread"
            assert thread is not None, "the hub would have to wait"
            ticket = Ticket(thread)
            self._blocked.append(ticket)
            machine._switch(thread)
        self._owner = thread
        if self._broker and thread is not None:
            thread.inside += 1

    def __exit__(self, *_: object) -> None:
        machine = self._machine
        if machine.over:
            return
        self._release()
        if self._broker:
            machine.point()

    def _release(self) -> None:
        thread = self._machine.current
        assert self._owner is thread, "a lock is released that another thread holds"
        self._owner = None
        if self._broker and thread is not None:
            thread.inside -= 1
        if self._blocked:
            self._machine.wake(self._blocked.popleft())

    def wait(self, timeout: float | None = None) -> bool:
        machine = self._machine
        thread = machine.current
        if machine.over or thread is None:
            raise Killed
        ticket = Ticket(thread)
        self._waiting.append(ticket)
        machine.begin(ticket, timeout, rounds=True)
        self._release()
        assert not thread.inside
        machine._switch(thread)
        self._acquire()
        if ticket.timed_out and ticket in self._waiting:
            self._waiting.remove(ticket)
        return not ticket.timed_out

    def notify(self, n: int = 1) -> None:
        """As threading's: one that has timed out, and has not gone on yet, may take a wake-up that it cannot use."""
        while self._waiting and n > 0:
            n -= 1
            self._machine.wake(self._waiting.popleft())

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class RLock:
    """As threading's."""

    def __init__(self, machine: Machine) -> None:
        self._condition = Condition(machine)
        self._machine = machine
        self._owner: Thread | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """With a `timeout` it does not wait at all: who would wait comes again."""
        if self._machine.over:
            return False
        if self._owner is not None and self._owner is self._machine.current:
            self._depth += 1
            return True
        if (not blocking or timeout >= 0) and self._owner is not None:
            return False
        self._condition.__enter__()
        self._owner = self._machine.current
        self._depth = 1
        return True

    def release(self) -> None:
        if self._machine.over:
            return
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._condition.__exit__()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@attrs.frozen
class System:
    """`flux.core.ports.System` as one process sees it; `broker`: as the broker does."""

    process: Process
    broker: bool = False

    def now(self) -> float:
        return self.process.now()

    def monotonic(self) -> float:
        return self.process.machine.time

    def sleep(self, seconds: float) -> None:
        machine = self.process.machine
        machine.point()
        machine.park(seconds, rounds=True)

    def condition(self) -> Condition:
        return Condition(self.process.machine, self.broker)

    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        return self.process.machine.spawn(name, target)

    def randint(self, low: int, high: int) -> int:
        return self.process.machine.random.randint(low, high)

    def watch(self, duty: Duty) -> None:
        """What stands still is found by the simulation's own end: all must drain."""


class Local:
    """As `threading.local`, by greenlet: for the one attribute that flux keeps so."""

    active: bool

    def __getattr__(self, name: str) -> Any:
        try:
            return getcurrent().__dict__["flux_" + name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        getcurrent().__dict__["flux_" + name] = value

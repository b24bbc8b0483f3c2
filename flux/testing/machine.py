"""A System without threads, whose time moves only when a test moves it or code waits.

Code that waits has no other thread to wait for: the targets of `spawn` (the flushing of producers, a client that holds
records through an outage) run during the wait, and time passes. The locks are real, since a program under test may have
threads of its own.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from operator import attrgetter

import attrs

from flux.core.errors import FluxError
from flux.core.monitoring.duties import Duty
from flux.system import SYSTEM

WAIT_LIMIT = 3600.0
"""Seconds of the machine's time that may pass without progress."""
_REAL_WAIT = 0.001  # real seconds for a thread of the program under test


class Stuck(FluxError):
    """There is no progress, and waiting will not change that."""


class _Parked(BaseException):
    """Ends a spawned target that would wait."""


@attrs.frozen
class _Thread:
    """The return value of `spawn`; it cannot be waited for."""

    name: str

    def join(self, timeout: float | None = None) -> None:
        """There is no thread."""

    def is_alive(self) -> bool:
        return False


class Machine:
    """`flux.core.ports.System`. `start`: seconds since the epoch; `seed`: for random numbers. Its clock has whole
    milliseconds, as Kafka's timestamps and due times have; a shorter wait takes one."""

    def __init__(self, start: float, seed: int) -> None:
        self._now = _shown(start)
        self._random = random.Random(seed)
        self._waited = 0.0
        self._side_threads: list[Callable[[], None]] = []
        self._settling: int | None = None

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def condition(self) -> Condition:
        return Condition(self)

    def spawn(self, name: str, target: Callable[[], None]) -> _Thread:
        """`target` runs when time passes or other code waits, until it would wait itself; later it runs again from its
        start: as its state is kept elsewhere, that is the same as continuing."""
        self._side_threads.append(target)
        return _Thread(name)

    def sleep(self, seconds: float) -> None:
        self.settle()
        self.wait(seconds)

    def randint(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def watch(self, duty: Duty) -> None:
        """Does nothing: there is no thread that could be blocked; see `Stuck`."""

    def advance(self, seconds: float) -> None:
        """Moves the time, for the test."""
        self._now = _shown(self._now + seconds)
        self.progressed()
        self.settle()

    def progressed(self) -> None:
        """There was progress: the limit of waiting starts again."""
        self._waited = 0.0

    def wait(self, seconds: float | None) -> None:
        """Moves the time for code that waits. Raises Stuck."""
        if self._settling == threading.get_ident():
            raise _Parked
        if seconds is None:
            raise Stuck("something waits for ever: there is no other thread that could end it")
        self._waited += seconds
        if self._waited > WAIT_LIMIT:
            raise Stuck(f"no progress for {WAIT_LIMIT:g} s of the kit's clock; the log says why")
        self._now = _shown(self._now + max(seconds, 0.0))
        self.settle()

    def settle(self) -> None:
        """Runs the spawned targets, as far as they do not wait."""
        if self._settling is not None:
            return
        self._settling = threading.get_ident()
        try:
            targets, self._side_threads = self._side_threads, []
            for target in targets:
                try:
                    target()
                except _Parked:
                    self._side_threads.append(target)
        finally:
            self._settling = None


def _shown(seconds: float) -> float:
    return math.ceil(round(seconds * 1000, 3)) / 1000


class Condition:
    """`flux.core.ports.Condition` whose `wait` makes the machine's time pass."""

    __enter__ = property(attrgetter("_real.__enter__"))  # the lock's own: see there
    __exit__ = property(attrgetter("_real.__exit__"))

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._real = SYSTEM.condition()
        self._notified = 0

    def wait(self, timeout: float | None = None) -> bool:
        notified = self._notified
        self._machine.settle()
        if notified == self._notified and not (threading.active_count() > 1 and self._real.wait(_REAL_WAIT)):
            self._machine.wait(timeout)
        return notified != self._notified

    def notify(self, n: int = 1) -> None:
        self._notified += 1
        self._real.notify(n)

    def notify_all(self) -> None:
        self._notified += 1
        self._real.notify_all()

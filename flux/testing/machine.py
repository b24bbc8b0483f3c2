"""A machine without threads, whose time moves only when it is told to.

Who waits on it gets no other thread to wait for: what runs beside (the flushing of producers, a client that holds
records through an outage) runs then, and time passes. The locks are real, as a program under test may have threads of
its own.
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

PATIENCE = 3600.0
"""Seconds of the machine's time that may be waited for while nothing goes on."""
_OTHERS = 0.001  # real seconds for a thread of the program under test


class Stuck(FluxError):
    """Nothing goes on, and no passing of time will change that."""


class _Parked(BaseException):
    """What runs beside has nothing to do until something happens."""


@attrs.frozen
class _Thread:
    """What `spawn` gives: nothing that anybody could wait for."""

    name: str

    def join(self, timeout: float | None = None) -> None:
        """There is no thread."""

    def is_alive(self) -> bool:
        return False


class Machine:
    """`flux.core.ports.System`. `start`: seconds since the epoch; `seed`: of everything drawn. Its clock shows whole
    milliseconds, as Kafka's timestamps and due times do, and what takes less takes one."""

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
        """`target` runs when time passes or somebody waits, up to where it would wait itself; then it begins anew: as
        its state is kept outside of it, that is the same as going on."""
        self._side_threads.append(target)
        return _Thread(name)

    def sleep(self, seconds: float) -> None:
        self.settle()
        self.wait(seconds)

    def randint(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def watch(self, duty: Duty) -> None:
        """There is no thread that could stand still: see `Stuck`."""

    def advance(self, seconds: float) -> None:
        """Time passes, because the test says so."""
        self._now = _shown(self._now + seconds)
        self.went_on()
        self.settle()

    def went_on(self) -> None:
        """Something has happened: patience begins anew."""
        self._waited = 0.0

    def wait(self, seconds: float | None) -> None:
        """Time passes, because somebody waits. Raises Stuck."""
        if self._settling == threading.get_ident():
            raise _Parked
        if seconds is None:
            raise Stuck("something waits for ever: there is no other thread that could end it")
        self._waited += seconds
        if self._waited > PATIENCE:
            raise Stuck(f"nothing has gone on for {PATIENCE:g} s of the kit's clock; the log says why")
        self._now = _shown(self._now + max(seconds, 0.0))
        self.settle()

    def settle(self) -> None:
        """Lets what runs beside do what it can do now."""
        if self._settling is not None:
            return
        self._settling = threading.get_ident()
        try:
            beside, self._side_threads = self._side_threads, []
            for target in beside:
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
        self._told = 0

    def wait(self, timeout: float | None = None) -> bool:
        told = self._told
        self._machine.settle()
        if told == self._told and not (threading.active_count() > 1 and self._real.wait(_OTHERS)):
            self._machine.wait(timeout)
        return told != self._told

    def notify(self, n: int = 1) -> None:
        self._told += 1
        self._real.notify(n)

    def notify_all(self) -> None:
        self._told += 1
        self._real.notify_all()

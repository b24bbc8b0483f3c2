"""The machine itself: the clock, the threads and the chance that drivers and the in-memory broker get."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from operator import attrgetter

from flux.core.ports import Condition, Thread


class _Condition(threading.Condition):
    """`threading.Condition` enters and leaves by functions in Python. A signal's handler that raises as one begins
    would leave the lock taken for ever, so these two are the lock's own, in C."""

    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))


class OperatingSystem:
    """`flux.core.ports.System` by the standard library."""

    now = staticmethod(time.time)
    sleep = staticmethod(time.sleep)
    randint = staticmethod(random.randint)

    def condition(self) -> Condition:
        return _Condition(threading.Lock())

    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread


SYSTEM = OperatingSystem()

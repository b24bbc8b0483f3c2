"""The machine itself: the clock, the threads and the chance that drivers and the in-memory broker get."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from flux.core.ports import Condition, Thread


class OperatingSystem:
    """`flux.core.ports.System` by the standard library."""

    now = staticmethod(time.time)
    sleep = staticmethod(time.sleep)
    randint = staticmethod(random.randint)

    def condition(self) -> Condition:
        return threading.Condition(threading.Lock())

    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread


SYSTEM = OperatingSystem()

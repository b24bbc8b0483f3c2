"""The machine itself: the clock, the threads and the chance that drivers and the in-memory broker get."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import Any

from flux.core.ports import Condition, Thread


class _Condition(threading.Condition):
    """`threading.Condition` enters, leaves and waits by functions in Python. A signal's handler that raises as one of
    them begins would leave the lock taken for ever, or give back one that is not held. So the first two are the lock's
    own, in C, and `wait` has it back before a handler can run."""

    _lock: Any
    _waiters: deque[Any]
    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))

    def wait(self, timeout: float | None = None) -> bool:
        waiter, lock, woken = threading.Lock(), self._lock, False
        held = (1, threading.get_ident())
        waiter.acquire()
        self._waiters.append(waiter)
        try:
            lock.release()
            woken = waiter.acquire(True, -1 if timeout is None else max(timeout, 0))
        finally:
            lock._acquire_restore(held)  # as `acquire`, but no signal's handler runs meanwhile
            if not woken:
                with suppress(ValueError):
                    self._waiters.remove(waiter)
        return woken


class OperatingSystem:
    """`flux.core.ports.System` by the standard library."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    randint = staticmethod(random.randint)

    def condition(self) -> Condition:
        return _Condition(threading.RLock())

    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread


SYSTEM = OperatingSystem()

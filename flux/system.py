"""The machine itself: the clock, the threads and the chance that drivers and the in-memory broker get."""

from __future__ import annotations

import _thread
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from flux.core.ports import Thread


class Lock(_thread.RLock):  # type: ignore[misc]  # not final at runtime
    """Every lock of flux: `with` leaves it free whatever a signal's handler raises, and wherever. From Python 3.14 on a
    handler may run when the lock's own `__enter__`, in C, has it and the `with` statement does not protect it yet; none
    runs between the return of a function in Python and the body."""

    __slots__ = ()

    if sys.version_info >= (3, 14):

        def __enter__(self) -> bool:
            depth = self._recursion_count()
            try:
                return self.acquire()
            except BaseException:
                if self._recursion_count() > depth:
                    self.release()
                raise


class _Condition(threading.Condition):
    """`threading.Condition` enters, leaves and waits by functions in Python. A signal's handler that raises as one of
    them begins would leave the lock taken for ever, or give back one that is not held. So the first two are `Lock`'s,
    and `wait` has it back before a handler can run."""

    _lock: Any
    _waiters: deque[Any]
    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))

    def wait(self, timeout: float | None = None) -> bool:
        waiter, lock, woken = threading.Lock(), self._lock, False
        held = (1, threading.get_ident())
        waiter.acquire()
        try:
            self._waiters.append(waiter)
            try:
                lock.release()
                woken = waiter.acquire(True, -1 if timeout is None else max(timeout, 0))
            finally:
                lock._acquire_restore(held)  # as `acquire`, but no signal's handler runs meanwhile
        finally:
            if not woken:
                try:  # noqa: SIM105 - `suppress` has functions in Python
                    self._waiters.remove(waiter)
                except ValueError:
                    pass
        return woken


class OperatingSystem:
    """`flux.core.ports.System` by the standard library."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    randint = staticmethod(random.randint)

    def condition(self) -> _Condition:
        return _Condition(Lock())

    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread


SYSTEM = OperatingSystem()

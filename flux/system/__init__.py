"""The operating system for drivers and the in-memory broker: clock, threads, locks, random numbers, the watchdog."""

from __future__ import annotations

import _thread
import logging
import os
import random
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import Any

from flux.core.error_text import guarded
from flux.core.monitoring.duties import CHECK_INTERVAL, Duties, Duty, StalledDuty
from flux.core.ports import System, Thread

logger = logging.getLogger("flux.watchdog")

MOST_FRAMES = 20


class Lock(_thread.RLock):  # type: ignore[misc]  # not final at runtime
    """Every lock of flux. `with` releases it even if a signal handler raises at any point. From Python 3.14 on, a
    handler may run after the lock's own `__enter__`, in C, has acquired it and before the `with` statement protects it;
    none runs between the return of a Python function and the body."""

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
    """`threading.Condition` enters, leaves and waits by Python functions. A signal handler that raises at the start of
    one would leave the lock held for ever, or release one that is not held. So `__enter__` and `__exit__` are `Lock`'s,
    and `wait` has acquired it again before a handler can run."""

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
                lock._acquire_restore(held)  # as `acquire`, but no signal handler runs meanwhile
        finally:
            if not woken:
                try:  # noqa: SIM105 - `suppress` has functions in Python
                    self._waiters.remove(waiter)
                except ValueError:
                    pass
        return woken


class Watchdog:
    """Checks duties every second, on a thread that takes no other lock and ends when there are none."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = Lock()
        self._duties = Duties()
        self._running = False

    def watch(self, duty: Duty) -> None:
        if self._process != os.getpid():
            self._begin()  # a forked child has no thread, and its parent's duties are not its own
        with self._lock:
            self._duties.add(duty)
            if not self._running:
                with suppress(RuntimeError):  # the interpreter is ending, and starts no more threads
                    self._system.spawn("flux-watchdog", self._run)
                    self._running = True

    def _run(self) -> None:
        while True:
            self._system.sleep(CHECK_INTERVAL)
            for standing in self._duties.checked(self._system.monotonic()):
                _name(standing)
            for duty in self._duties.to_probe():
                _ask(duty)
            with self._lock:
                if not self._duties:
                    self._running = False
                    return


def _name(standing: StalledDuty) -> None:
    duty, taken = standing.duty, False
    where = duty.stack() if duty.stack is not None else stack_of_thread(duty.thread)
    if standing.first and duty.take_over is not None:
        try:
            taken = duty.take_over()
        except Exception:
            logger.exception("%s could not be taken over", duty.name)
    logger.warning(
        "%s has made no progress for %.0f s%s%s",
        duty.name,
        standing.seconds,
        ": another thread takes over" if taken else "",
        f", at\n{where}" if where else "",
    )


def _ask(duty: Duty) -> None:
    assert duty.probe is not None
    try:
        duty.probe()
    except RuntimeError:  # its event loop is closed
        duty.end()


def stack_of_thread(identifier: int | None) -> str:
    """The stack of a thread, innermost frame last; empty when it has ended."""
    frame = sys._current_frames().get(identifier or 0)
    return "" if frame is None else guarded(lambda: "".join(traceback.format_stack(frame)[-MOST_FRAMES:])) or ""


class OperatingSystem:
    """`flux.core.ports.System` by the standard library."""

    def __init__(self) -> None:
        self.watch = Watchdog(self).watch

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

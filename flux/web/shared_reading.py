"""What all visitors read together: one request reads at a time, and what it found is shown again for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from flux.core.errors import BrokerError, Fault
from flux.core.ports import System

FRESH = 5.0
"""Seconds for which a result is shown again."""
T = TypeVar("T")


class SharedReading(Generic[T]):
    """`timeout`: seconds to wait for another request's reading, since what hangs must not block all threads; `busy`:
    what is said then."""

    def __init__(self, read: Callable[[], T], timeout: float, busy: str, system: System) -> None:
        self._read = read
        self._timeout = timeout
        self._busy = busy
        self._system = system
        self._lock = threading.Lock()
        self._kept: tuple[float, T] | None = None

    def get(self) -> T:
        """Blocks. Raises BrokerError, and what `read` raises."""
        if not self._lock.acquire(timeout=self._timeout):
            raise BrokerError(self._busy, Fault.UNAVAILABLE)
        try:
            if self._kept is None or not 0 <= self._system.now() - self._kept[0] < FRESH:
                found = self._read()
                self._kept = self._system.now(), found
            return self._kept[1]
        finally:
            self._lock.release()

    def forget(self) -> None:
        """The next request reads again."""
        with self._lock:
            self._kept = None

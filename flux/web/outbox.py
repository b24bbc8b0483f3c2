"""What is in the table of a transactional outbox: rows that no relay has moved to Kafka yet."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flux.core.errors import BrokerError, Fault
from flux.core.ports import System
from flux.core.ports.outbox import OutboxStatus, OutboxStore

FRESH = 5.0
"""Seconds for which a result is shown again."""
TIMEOUT = 2.0
"""Seconds to wait for another request's reading: a hanging database must not block all threads."""


class OutboxReader:
    """`open_store`: makes a store that has not connected yet."""

    def __init__(self, open_store: Callable[[], OutboxStore], system: System) -> None:
        self._open_store = open_store
        self._system = system
        self._lock = threading.Lock()
        self._kept: tuple[float, OutboxStatus] | None = None

    def status(self) -> OutboxStatus:
        """Blocks. Raises FluxError."""
        if not self._lock.acquire(timeout=TIMEOUT):
            raise BrokerError("the database has not answered another request yet", Fault.UNAVAILABLE)
        try:
            now = self._system.now()
            if self._kept is None or not 0 <= now - self._kept[0] < FRESH:
                store = self._open_store()
                try:
                    self._kept = now, store.status()
                finally:
                    store.close()
            return self._kept[1]
        finally:
            self._lock.release()

"""What is in the table of a transactional outbox: rows that no relay has moved to Kafka yet."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from flux.core.ports import System
from flux.core.ports.outbox import OutboxStatus, OutboxStore
from flux.web.shared_reading import SharedReading

TIMEOUT = 2.0


def outbox_status(open_store: Callable[[], OutboxStore], system: System) -> SharedReading[OutboxStatus]:
    """`open_store`: makes a store that has not connected yet."""

    def read() -> OutboxStatus:
        with closing(open_store()) as store:
            return store.status()

    return SharedReading(read, TIMEOUT, "the database has not answered another request yet", system)

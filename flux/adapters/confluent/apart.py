"""Records that were refused with their batch, written again one by one.

A broker refuses a batch whole when one record in it is too large, or when all of them together are. librdkafka fails
the whole batch then, and splits none. Only who writes them apart learns which of them is too large.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from flux.core.errors import BrokerError, Fault
from flux.core.ports import Headers, ProducerPort, ProducerRecord, Record, System

Acknowledged = Callable[[BrokerError | None, Record], None]
Refuse = Callable[[str, ProducerRecord, BrokerError, Acknowledged], None]

_AGAIN = 0.01  # seconds until a full client is tried again


class Apart:
    """Thread-safe. `make`: a client that puts each record into a batch of its own; it is made with the first. `refuse`
    acknowledges a record that no client has taken."""

    def __init__(self, make: Callable[[], ProducerPort], refuse: Refuse, system: System) -> None:
        self._make = make
        self._refuse = refuse
        self._system = system
        self._lock = system.condition()
        self._waiting: deque[tuple[str, ProducerRecord, Acknowledged]] = deque()
        self._client: ProducerPort | None = None
        self._closed = False

    def __bool__(self) -> bool:
        """Whether there has ever been one."""
        return self._client is not None or bool(self._waiting)

    def add(self, topic: str, message: Any, headers: Headers, acknowledged: Acknowledged) -> None:
        """A record as the client has reported it, and what a report lacks. To the partition where it was to go, with
        the time at which it was written."""
        kind, timestamp = message.timestamp()
        record = ProducerRecord(
            message.value(), message.key(), headers, message.partition(), timestamp if kind and timestamp > 0 else None
        )
        self._waiting.append((topic, record, acknowledged))

    def write(self) -> None:
        """Hands on what the client takes, in order."""
        with self._lock:
            while self._waiting:
                topic, record, acknowledged = self._waiting[0]
                try:
                    if self._closed:
                        raise BrokerError("the producer is closed", Fault.FATAL)
                    self._client = self._client or self._make()
                    if not self._client.write(topic, [record], acknowledged):
                        return
                except BrokerError as error:
                    self._refuse(topic, record, error, acknowledged)
                self._waiting.popleft()

    def flush(self, timeout: float) -> int:
        """Writes what waits and waits for it; how many are left."""
        until = self._system.monotonic() + timeout
        while True:
            self.write()
            left = self._client.flush(max(0.0, until - self._system.monotonic())) if self._client is not None else 0
            if not self._waiting or self._system.monotonic() >= until:
                return left + len(self._waiting)
            self._system.sleep(_AGAIN)

    def close(self, timeout: float) -> None:
        with self._lock:
            self._closed = True
        self.write()
        if self._client is not None:
            self._client.close(timeout)

"""Writes records again one by one after their batch was refused as too large.

A broker refuses a whole batch when one record in it is too large, or when all of them together are. librdkafka then
fails the whole batch, and splits none. Only records written one by one show which of them is too large.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from flux.core.errors import BrokerError, Fault
from flux.core.ports import Headers, ProducerPort, ProducerRecord, Record, System

Acknowledged = Callable[[BrokerError | None, Record], None]
Refuse = Callable[[str, ProducerRecord, BrokerError, Acknowledged], None]

_RETRY = 0.01  # seconds until a full client is tried again


class Apart:
    """Thread-safe. `make` returns a client that puts each record into its own batch; it is called with the first
    record. `refuse` acknowledges a record that no client has taken."""

    def __init__(self, make: Callable[[], ProducerPort], refuse: Refuse, system: System) -> None:
        self._make = make
        self._refuse = refuse
        self._system = system
        self._lock = system.condition()
        self._waiting: deque[tuple[str, ProducerRecord, Acknowledged]] = deque()
        self._client: ProducerPort | None = None
        self._closed = False

    def __bool__(self) -> bool:
        """Whether there has ever been a record."""
        return self._client is not None or bool(self._waiting)

    def add(self, topic: str, message: Any, headers: Headers, acknowledged: Acknowledged) -> None:
        """A record from a delivery report, with its headers, which a report lacks. It keeps its partition and time."""
        kind, timestamp = message.timestamp()
        record = ProducerRecord(
            message.value(), message.key(), headers, message.partition(), timestamp if kind and timestamp > 0 else None
        )
        self._waiting.append((topic, record, acknowledged))

    def write(self) -> None:
        """Writes waiting records in order, as far as the client takes them."""
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
        """Writes what is waiting and waits for it. Returns how many records are left."""
        until = self._system.monotonic() + timeout
        while True:
            self.write()
            left = self._client.flush(max(0.0, until - self._system.monotonic())) if self._client is not None else 0
            if not self._waiting or self._system.monotonic() >= until:
                return left + len(self._waiting)
            self._system.sleep(_RETRY)

    def close(self, timeout: float) -> None:
        with self._lock:
            self._closed = True
        self.write()
        if self._client is not None:
            self._client.close(timeout)

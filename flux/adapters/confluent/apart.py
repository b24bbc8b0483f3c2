"""Writes records again one by one after their batch was refused as too large.

A broker refuses a whole batch when one record in it is too large, or when all of them together are. librdkafka then
fails the whole batch, and splits none. Only records written one by one show which of them is too large.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from flux.core.errors import BrokerError, Fault
from flux.core.ports import Headers, ProducerPort, ProducerRecord, Record, System

Acknowledged = Callable[[BrokerError | None, Record], None]
Refuse = Callable[[str, ProducerRecord, BrokerError, Acknowledged], None]

_RETRY = 0.01  # seconds until a full client is tried again
_finding = Lock()


class Sent:
    """The records of one write, for their delivery reports, which lack headers. A callback for each record that knows
    its headers would cost more than all else that is done for it. Thread-safe."""

    __slots__ = ("_left", "_records")

    def __init__(self, records: Sequence[ProducerRecord]) -> None:
        self._records = records
        self._left: dict[tuple[bytes, bytes], list[ProducerRecord]] | None = None

    def headers_of(self, message: Any) -> Headers:
        """Of the record that a report is about. Each record is found once; which of two comes first does not matter if
        they differ in their headers alone."""
        _, timestamp = message.timestamp()
        with _finding:
            if self._left is None:
                self._left = {}
                for record in reversed(self._records):
                    self._left.setdefault((record.value or b"", record.key or b""), []).append(record)
            same = self._left.get((message.value() or b"", message.key() or b""))
            if not same:
                return ()
            fits = (
                at
                for at in reversed(range(len(same)))
                if same[at].partition in (None, message.partition()) and same[at].timestamp in (None, 0, timestamp)
            )
            return same.pop(next(fits, -1)).headers


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

    def add(self, topic: str, message: Any, sent: Sent, acknowledged: Acknowledged) -> None:
        """The record of a delivery report. It keeps its partition and time."""
        kind, timestamp = message.timestamp()
        record = ProducerRecord(
            message.value(),
            message.key(),
            sent.headers_of(message),
            message.partition(),
            timestamp if kind and timestamp > 0 else None,
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

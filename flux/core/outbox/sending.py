"""One turn of the relay: which of the rows that it took may be written now, and what became of them.

One row of each key is in flight at a time. If several were, Kafka could refuse the first and write the second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from flux.core.errors import BrokerError, Fault
from flux.core.ports.outbox import OutboxRow

_OF_THE_CLIENT = frozenset({Fault.LOGIN, Fault.FATAL, Fault.FENCED})
OF_THE_TOPIC = frozenset({Fault.UNKNOWN_TOPIC, Fault.DENIED})
"""Faults that all rows of a topic share."""


class Sending:
    """`rows`: in the order of their ids. Used under one lock."""

    def __init__(self, rows: Sequence[OutboxRow]) -> None:
        self._waiting: dict[int, deque[OutboxRow]] = {}
        for row in rows:
            self._waiting.setdefault(row.key_hash, deque()).append(row)
        self._ready: list[OutboxRow] = [queue.popleft() for queue in self._waiting.values()]
        self._in_flight: dict[int, OutboxRow] = {}
        self._stopped = False
        self.done: list[int] = []
        """Ids of rows that Kafka has acknowledged."""
        self.refused: dict[OutboxRow, BrokerError] = {}
        """Rows that Kafka will not take until somebody changes something."""
        self.unavailable: dict[OutboxRow, BrokerError] = {}
        """Rows that Kafka may take later although nobody changes anything. They may have been written."""

    def take(self) -> list[OutboxRow]:
        """The rows to write now; from here on they are in flight."""
        taken, self._ready = ([], []) if self._stopped else (self._ready, [])
        self._in_flight |= {row.id: row for row in taken}
        return taken

    def put_back(self, rows: Sequence[OutboxRow]) -> None:
        """Rows of `take` that the client had no room for; the next `take` returns them first."""
        for row in rows:
            del self._in_flight[row.id]
        self._ready = [*rows, *self._ready]

    def acknowledged(self, row: OutboxRow) -> None:
        if self._in_flight.pop(row.id, None) is None:
            return  # the turn has ended without it
        self.done.append(row.id)
        queue = self._waiting[row.key_hash]
        if queue:
            self._ready.append(queue.popleft())

    def failed(self, row: OutboxRow, error: BrokerError) -> None:
        """The rows of its key behind it stay in the table."""
        if self._in_flight.pop(row.id, None) is None:
            return
        if error.fault in _OF_THE_CLIENT:
            self._stopped = True
        if error.retriable or error.fault in _OF_THE_CLIENT:
            self.unavailable[row] = error
        else:
            self.refused[row] = error

    def stop(self) -> None:
        """Writes no more: `take` is empty from now on."""
        self._stopped = True

    def give_up(self, error: BrokerError) -> None:
        """What is in flight gets no more answer that counts."""
        self._stopped = True
        self.unavailable |= dict.fromkeys(self._in_flight.values(), error)
        self._in_flight.clear()

    @property
    def outage(self) -> BrokerError | None:
        """Why the cluster has taken nothing. None if it has taken or refused a row: then only some partitions are
        unavailable."""
        return None if self.done or self.refused else next(iter(self.unavailable.values()), None)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def ended(self) -> bool:
        return not self._in_flight and (self._stopped or not self._ready)

"""Waits for room in a producer's buffer, and refuses a record that gets none."""

from __future__ import annotations

import asyncio

import attrs

from flux.core.errors import BrokerError, BufferFull, DeliveryError
from flux.core.ports import ProducerRecord, ProducerSettings, System
from flux.core.producing.buffer import Buffer
from flux.producing.flusher import Flusher
from flux.producing.pending_acks import failed, in_acknowledgement
from flux.producing.unclaimed_failures import UnclaimedFailures
from flux.producing.watches import LONGEST_REST, Watch, Watches, Watching


@attrs.frozen(eq=False)
class Room:
    """For one producer's buffer, while it is `blocked`."""

    _system: System
    _topic: str
    _settings: ProducerSettings
    _buffer: Buffer
    _flusher: Flusher
    _waits: Watches
    _unclaimed: UnclaimedFailures

    def wait(self, record: ProducerRecord) -> None:
        """Waits up to the delivery timeout, then raises DeliveryError. Raises BufferFull at once where a wait would
        block an event loop or the acknowledgements."""
        self._flusher.flush()
        if not self._buffer.blocked:
            return
        if _must_not_wait():
            raise BufferFull([failed(self._topic, record, self._flusher.no_room())])
        deadline = self._deadline()
        with self._watching(record):
            while (left := self._left(deadline)) > 0:
                self._waits.rest(left)
                self._flusher.flush()

    async def await_(self, record: ProducerRecord) -> None:
        """`wait` for an event loop."""
        deadline = self._deadline()
        with self._watching(record):
            while (left := self._left(deadline)) > 0:
                await self._waits.arest(left)
                self._flusher.flush()

    def _deadline(self) -> float:
        return self._system.monotonic() + self._settings.delivery_timeout

    def _left(self, deadline: float) -> float:
        """Seconds to wait before the next check; 0 when there is room or the time is over."""
        return min(deadline - self._system.monotonic(), LONGEST_REST) if self._buffer.blocked else 0.0

    def _watching(self, record: ProducerRecord) -> Watching:
        return Watching(self._waits, self._waits.begin, lambda watch: self._judge(watch, record))

    def _judge(self, watch: Watch, record: ProducerRecord) -> None:
        """Called after a wait. When there is room only because other records failed on an unavailable cluster, this one
        would fail too: its caller gets all failures, its own first."""
        self._waits.withdraw(watch)
        unavailable = any(isinstance(each.error, BrokerError) and each.error.retriable for each in watch.failed)
        if unavailable or self._buffer.blocked:
            raise DeliveryError([failed(self._topic, record, self._flusher.no_room()), *watch.failed])
        if watch.failed:
            self._unclaimed.report(watch.failed)


def _must_not_wait() -> bool:
    if in_acknowledgement():
        return True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

"""Room in a producer's buffer: the wait for it, and the refusal of a record that gets none."""

from __future__ import annotations

import asyncio

from flux.core.errors import BrokerError, BufferFull, DeliveryError
from flux.core.ports import ProducerRecord, ProducerSettings, System
from flux.core.producing.buffer import Buffer
from flux.producing.flusher import Flusher
from flux.producing.pending_acks import failed, in_acknowledgement
from flux.producing.unheard import Unheard
from flux.producing.waits import LONGEST_REST, Watch, Watches, Watching


class Room:
    """For one producer's buffer, while it is `blocked`."""

    def __init__(
        self,
        system: System,
        topic: str,
        settings: ProducerSettings,
        buffer: Buffer,
        flusher: Flusher,
        waits: Watches,
        unheard: Unheard,
    ) -> None:
        self._system = system
        self._topic = topic
        self._patience = settings.delivery_timeout
        self._buffer = buffer
        self._flusher = flusher
        self._waits = waits
        self._unheard = unheard

    def wait(self, record: ProducerRecord) -> None:
        """Up to the delivery timeout, then raises DeliveryError. Raises BufferFull at once where a wait would block an
        event loop or the acknowledgements."""
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
        return self._system.monotonic() + self._patience

    def _left(self, deadline: float) -> float:
        """Seconds to wait before the next look; none when there is room, or no more patience."""
        return min(deadline - self._system.monotonic(), LONGEST_REST) if self._buffer.blocked else 0.0

    def _watching(self, record: ProducerRecord) -> Watching:
        return Watching(self._waits, self._waits.begin, lambda watch: self._judge(watch, record))

    def _judge(self, watch: Watch, record: ProducerRecord) -> None:
        """After a wait. Where there is room only because the cluster was away until other records failed, this one
        would fail too: its caller hears of all of them."""
        self._waits.withdraw(watch)
        away = any(isinstance(each.error, BrokerError) and each.error.retriable for each in watch.failed)
        if away or self._buffer.blocked:
            raise DeliveryError([*watch.failed, failed(self._topic, record, self._flusher.no_room())])
        if watch.failed:
            self._unheard.report(watch.failed)


def _must_not_wait() -> bool:
    if in_acknowledgement():
        return True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

"""One producer's buffer, and what happens to its records.

Invariant: every record ends exactly once. It is acknowledged, or it is named in an error that goes to whoever waits for
it (`flush`, a `send`, a task's call); if nobody waits, to the log, to `on_error` and to the next `flush`.

A record is in one place at a time: the filling buffer, the pending list (taken from the buffer, not yet all with the
client) or in flight. One thread at a time moves records on, so their order is the order in which they came. A signal
handler may raise between any two bytecodes; so a record enters the next place before it leaves the last one, by steps
that call no Python code, and a record found in both places counts once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from flux.core.errors import ConfigurationError, FailedRecord
from flux.core.ports import Adapter, ProducerPort, ProducerRecord, ProducerSettings, System
from flux.core.producing.buffer import Buffer, Limits
from flux.producing.delivery import Delivery
from flux.producing.flusher import Flusher
from flux.producing.pending_acks import InFlight, Pending, Tracked, acknowledging, in_acknowledgement
from flux.producing.room import Room
from flux.producing.scope import Scope
from flux.producing.unheard import Unheard
from flux.producing.waits import Watch, Watches, Watching, in_loop, nothing

logger = logging.getLogger("flux.producer")


class Runtime(Protocol):
    """What all producers of a process share."""

    @property
    def system(self) -> System: ...
    def client(self, buffer: ProducerBuffer) -> ProducerPort:
        """The client for its adapter and settings, made now if need be. Raises ConfigurationError, BrokerError."""
        ...

    def broken(self, buffer: ProducerBuffer, client: ProducerPort) -> None:
        """It cannot go on; the next `client` makes another."""
        ...

    def opened(self, buffer: ProducerBuffer) -> None:
        """It is no longer empty: its flusher's `tick` is called when it is due."""
        ...

    def stalled(self, buffer: ProducerBuffer) -> None:
        """Its client is full or away: `tick` is called soon."""
        ...

    def handed_on(self, buffer: ProducerBuffer) -> None:
        """A full buffer went to the client."""
        ...


class ProducerBuffer:
    """One producer's records for one topic of one cluster. Thread-safe."""

    def __init__(
        self, runtime: Runtime, adapter: Adapter, topic: str, settings: ProducerSettings, limits: Limits
    ) -> None:
        system = runtime.system
        in_flight = InFlight(system)
        self.adapter = adapter
        self.topic = topic
        self.settings = settings
        self.filling = Buffer(limits)
        self.unheard = Unheard(system, adapter, topic)
        self.waits = Watches(system, in_flight, self.unheard, topic)
        self.flusher = Flusher(self, system, adapter, topic, settings, self.filling, in_flight)
        self._room = Room(system, topic, settings, self.filling, self.flusher, self.waits, self.unheard)
        self._system = system
        self._runtime = runtime
        self._late = False

    # ---- records come

    def put(self, record: ProducerRecord, size: int) -> None:
        """Takes a record of `size` bytes. Raises as `wait_for_room` does."""
        if isinstance(record, Tracked):
            self.flusher.tracks = True
        if self.filling.blocked:
            self.wait_for_room(record)
        if self.filling.add(record, size):
            self.added()

    def added(self) -> None:
        """What is to do when `Buffer.add` says so."""
        filling = self.filling
        if filling.full:
            self.hand_over()
            self._runtime.handed_on(self)
        if filling.deadline is None and filling:
            self._runtime.opened(self)

    def send(self, record: ProducerRecord, scope: Scope | None) -> Delivery:
        """Hands on what is buffered and then this record, at once. Raises as `wait_for_room` does."""
        if self.filling.blocked:
            self.wait_for_room(record)
        delivery = Delivery(self, self.topic, record, self._system.monotonic(), scope)
        self.flusher.send(delivery)
        self._runtime.handed_on(self)
        return delivery

    def wait_for_room(self, record: ProducerRecord) -> None:
        """Up to the delivery timeout, then raises DeliveryError. Raises BufferFull at once where a wait would block an
        event loop or the acknowledgements."""
        self._room.wait(record)

    async def await_room(self, record: ProducerRecord) -> None:
        """`wait_for_room` for an event loop."""
        await self._room.await_(record)

    def comes_late(self) -> bool:
        """A record is produced in a context that was inherited from a call which has ended; False."""
        if not self._late:
            self._late = True
            logger.warning(
                "topic %s: what was begun in a call produces after the call has ended, and is no part of it any more",
                self.topic,
            )
        return False

    # ---- records go

    def hand_over(self) -> None:
        """Hands what is buffered to the client, as far as that has room, and waits for nothing."""
        self.flusher.flush()

    def watch(self, done: Callable[[], None] = nothing) -> Watch:
        """Flushes; `done` is called when everything taken so far has ended: now, if it has."""
        watch: Watch | None = None
        flusher = self.flusher
        try:
            with flusher.lock:
                flusher.take_locked()
                watch = self.waits.begin(done)
                flusher.flush_locked()
        except BaseException:
            if watch is not None:
                self.waits.abandon(watch)
            raise
        return watch

    def flush(self, timeout: float | None) -> None:
        """Flushes and waits; None: until the client has given up on the last. Raises DeliveryError."""
        if in_acknowledgement():
            raise ConfigurationError("flush() inside on_error or a callback would wait for itself: call it elsewhere")
        with Watching(self.waits, self.watch, self.waits.conclude) as watch:
            self.waits.wait(watch, timeout)

    async def aflush(self, timeout: float | None) -> None:
        """`flush` for an event loop."""
        done = asyncio.Event()
        tell = in_loop(done.set)
        with Watching(self.waits, lambda: self.watch(tell), self.waits.conclude), suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), timeout)

    # ---- for the flusher, and for what is in flight

    def client(self) -> ProducerPort:
        return self._runtime.client(self)

    def broken(self, client: ProducerPort) -> None:
        self._runtime.broken(self, client)

    def stalled(self) -> None:
        self._runtime.stalled(self)

    def ended(self, pending: Pending) -> None:
        if not self.waits.ended(pending):
            acknowledging(self.unheard.report, pending.failed, pending.scope is None)
        self.flusher.go_on()

    def report(self, records: Sequence[FailedRecord]) -> None:
        self.unheard.report(records)

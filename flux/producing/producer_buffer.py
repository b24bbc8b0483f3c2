"""One producer's buffer, and what happens to its records.

Invariant: every record ends exactly once. It is acknowledged, or it is named in an error for the caller that waits for
it (`flush`, a `send`, a task's call); without one, the error goes to the log, to `on_error` and to the next `flush`.

A record is in one place at a time: the filling buffer, the pending list (taken from the buffer, not yet all with the
client) or in flight. One thread at a time moves records on, so their order is kept. A signal
handler may raise between any two bytecodes; so a record enters the next place before it leaves the last one, by steps
that call no Python code, and a record found in both places counts once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from flux.core.errors import BrokerError, ConfigurationError, DeliveryError, FailedRecord
from flux.core.ports import Adapter, ProducerPort, ProducerRecord, ProducerSettings, System
from flux.core.producing.buffer import Buffer, Limits
from flux.core.producing.partitioner import partition_for_key
from flux.core.validation import MOST
from flux.producing.delivery import Delivery
from flux.producing.encoding import check_number, encode
from flux.producing.flusher import Flusher
from flux.producing.pending_acks import InFlight, Pending, acknowledging, in_acknowledgement
from flux.producing.produced import Scope, Tracked
from flux.producing.room import Room
from flux.producing.unclaimed_failures import UnclaimedFailures
from flux.producing.watches import Watch, Watches, Watching, in_loop, nothing

logger = logging.getLogger("flux.producer")


SOON = 0.001
"""Seconds that what a call has produced may wait for what other calls produce."""


class Runtime(Protocol):
    """Shared by all producers of a process."""

    @property
    def system(self) -> System: ...
    def client(self, buffer: ProducerBuffer) -> ProducerPort:
        """The client for its adapter and settings, made now if necessary. Raises ConfigurationError, BrokerError."""
        ...

    def broken(self, buffer: ProducerBuffer, client: ProducerPort) -> None:
        """The client cannot continue; the next `client` makes another."""
        ...

    def opened(self, buffer: ProducerBuffer, within: float = math.inf) -> None:
        """The buffer is no longer empty: call its flusher's `tick` when it is due, `within` seconds even so."""
        ...

    def stalled(self, buffer: ProducerBuffer) -> None:
        """Its client is full or unavailable: call `tick` soon."""
        ...

    def passed_on(self, buffer: ProducerBuffer) -> None:
        """A full buffer was passed to the client."""
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
        self.unclaimed = UnclaimedFailures(system, adapter, topic)
        self.waits = Watches(system, in_flight, self.unclaimed, topic)
        self.flusher = Flusher(self, system, adapter, topic, settings, self.filling, in_flight)
        self._room = Room(system, topic, settings, self.filling, self.flusher, self.waits, self.unclaimed)
        self._system = system
        self._runtime = runtime
        self._late = False

    # ---- adding records

    def put(self, record: ProducerRecord, size: int) -> None:
        """Takes a record of `size` bytes. Raises as `wait_for_room` does."""
        if isinstance(record, Tracked):
            self.flusher.tracks = True
        if self.filling.blocked:
            self.wait_for_room(record)
        if self.filling.add(record, size):
            self.added()

    def put_all(self, records: Sequence[tuple[Tracked, int]]) -> None:
        """Takes records with their sizes, whether it has room or not: they are in memory anyway."""
        self.flusher.tracks = True
        for record, size in records:
            self.filling.add(record, size)
        self.pass_on_soon()

    def added(self, within: float = math.inf) -> None:
        """Called when `Buffer.add` returns True. `within`: seconds after which the records leave at the latest."""
        if self.filling.full:
            self.pass_on()
            self._runtime.passed_on(self)
        if not self.filling.due_within(within, self._system.monotonic()):
            self._runtime.opened(self, within)

    def send(self, record: ProducerRecord, scope: Scope | None) -> Delivery:
        """Passes on buffered records and then this one, at once. Raises as `wait_for_room` does."""
        if self.filling.blocked:
            self.wait_for_room(record)
        delivery = Delivery(self, self.topic, record, self._system.monotonic(), scope)
        self.flusher.send(delivery)
        self._runtime.passed_on(self)
        return delivery

    @property
    def blocked(self) -> bool:
        """Whether it has no room."""
        return self.filling.blocked

    def wait_for_room(self, record: ProducerRecord) -> None:
        """Waits up to the delivery timeout, then raises DeliveryError. Raises BufferFull at once where a wait would
        block an event loop or the acknowledgements."""
        self._room.wait(record)

    def choose_partition(self, partition_key: Any, partition: int | None, timestamp: int | None) -> int | None:
        """The partition of a record; None: the client chooses it by the key. Checks `timestamp` too. Raises
        ConfigurationError, and DeliveryError when the number of partitions cannot be read."""
        if timestamp is not None:
            check_number(timestamp, "timestamp (milliseconds since the epoch)", 1, MOST)
        if partition is not None:
            check_number(partition, "partition", 0, 2**31 - 1)
        if partition_key is None:
            return partition
        if partition is not None:
            raise ConfigurationError("give partition or partition_key, not both")
        data = encode(partition_key, "partition_key") or b""
        try:
            count = self.client().partitions(self.topic, self.settings.delivery_timeout)
        except BrokerError as error:
            raise DeliveryError([FailedRecord(self.topic, None, data, None, error)]) from error
        return partition_for_key(data, count)

    async def await_room(self, record: ProducerRecord) -> None:
        """`wait_for_room` for an event loop."""
        await self._room.await_(record)

    def log_late(self) -> None:
        """Called when a record is produced in a context inherited from a call that has ended."""
        if not self._late:
            self._late = True
            logger.warning(
                "topic %s: code that a call started produces after its end: the call's record does not wait for it",
                self.topic,
            )

    # ---- passing records on

    def pass_on(self) -> None:
        """Passes buffered records to the client, as far as it has room. Does not wait."""
        self.flusher.flush()

    def pass_on_soon(self) -> None:
        """Buffered records leave within `SOON`, together with those of other calls that end until then. A flush of each
        call would write batches of one, and threads that make calls would wait for each other."""
        self.added(SOON)

    def watch(self, done: Callable[[], None] = nothing) -> Watch:
        """Flushes. `done` is called when all records taken so far have ended, at once if they have."""
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
        """Flushes and waits; `timeout` None: until the client has given up the last record. Raises DeliveryError."""
        if in_acknowledgement():
            raise ConfigurationError("flush() inside on_error or a callback would wait for itself: call it elsewhere")
        with Watching(self.waits, self.watch, self.waits.conclude) as watch:
            self.waits.wait(watch, timeout)

    async def aflush(self, timeout: float | None) -> None:
        """`flush` for an event loop."""
        done = asyncio.Event()
        notify = in_loop(done.set)
        with Watching(self.waits, lambda: self.watch(notify), self.waits.conclude), suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), timeout)

    # ---- for the flusher and records in flight

    def client(self) -> ProducerPort:
        return self._runtime.client(self)

    def broken(self, client: ProducerPort) -> None:
        self._runtime.broken(self, client)

    def stalled(self) -> None:
        self._runtime.stalled(self)

    def ended(self, pending: Pending) -> None:
        if not self.waits.ended(pending):
            acknowledging(self.unclaimed.report, pending.failed, not pending.of_calls)
        self.flusher.resume()

    def report(self, records: Sequence[FailedRecord]) -> None:
        self.unclaimed.report(records)

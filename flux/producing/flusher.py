"""Passes the records of a buffer to the client, in order, on one thread at a time.

Acknowledgements may run during a write to the client, and they run users' code, which may produce. Such code finds the
flusher busy and only requests another round: if it wrote by itself, its records would overtake those being written.
"""

from __future__ import annotations

import logging
from typing import Protocol

import attrs

from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import Adapter, ProducerPort, ProducerSettings, System
from flux.core.producing.buffer import Buffer
from flux.producing.delivery import Delivery
from flux.producing.pending_acks import EndListener, InFlight, Pending, PendingAcks, pending_acks
from flux.system import Lock

logger = logging.getLogger("flux.producer")

RETRY = 0.05
"""Seconds after which a client whose queue was full is tried again, if no acknowledgement came before."""
LATE = 20.0
"""Seconds without an acknowledgement after which the log names the topic: clients name brokers that do not answer, and
not a topic that refuses records for a while, as with too few replicas in sync."""
_CHECK_INTERVAL, _AGAIN = 5.0, 60.0  # seconds until the next check, and after a line


class Owner(EndListener, Protocol):
    """The owner of the buffer."""

    def client(self) -> ProducerPort:
        """Made now if necessary. Raises ConfigurationError, BrokerError."""
        ...

    def broken(self, client: ProducerPort) -> None:
        """The client cannot continue; the next `client` makes another."""
        ...

    def stalled(self) -> None:
        """The client is full or unavailable: call `tick` soon."""
        ...


@attrs.define(eq=False)
class Flusher:
    """`lock` is held by the thread that passes records on."""

    _owner: Owner
    _system: System
    _adapter: Adapter
    _topic: str
    _settings: ProducerSettings
    _buffer: Buffer
    _in_flight: InFlight
    lock: Lock = attrs.field(factory=Lock, init=False)
    tracks: bool = attrs.field(default=False, init=False)
    """Whether any record was ever produced in a task's call."""
    _busy: bool = attrs.field(default=False, init=False)
    _again: bool = attrs.field(default=False, init=False)
    _checks_at: float = attrs.field(default=0.0, init=False)

    def flush(self) -> None:
        """Passes buffered records to the client, as far as it has room. Does not wait."""
        with self.lock:
            self.flush_locked()

    def send(self, delivery: Delivery) -> None:
        """Passes on buffered records, then this one."""
        in_flight = self._in_flight
        with self.lock:
            self.take_locked()
            with in_flight.changed:  # no calls in here: see `Buffer.take`
                in_flight.open |= {delivery}
                in_flight.untaken += (delivery,)
            self.flush_locked()

    def resume(self) -> None:
        """A record has ended, so the client may have room. Does nothing while another thread flushes."""
        if self._in_flight.untaken and self.lock.acquire(blocking=False):
            try:
                self.flush_locked()
            finally:
                self.lock.release()

    def flush_locked(self) -> None:
        if self._busy:
            self._again = True
            return
        untaken = self._in_flight.untaken
        self._busy = True
        try:
            while True:
                self._again = False
                self._push_locked()
                if not untaken:
                    self.take_locked()
                    self._push_locked()
                if not self._again:
                    break
        finally:
            self._busy = False
        # Records of `send` bypass the buffer: no more of them while the client has no room.
        self._buffer.blocked = bool(untaken) and (self._buffer.full or untaken[-1].claimed)

    def take_locked(self) -> None:
        """Moves buffered records in flight."""
        records = self._buffer.take()
        if not records:
            return
        now, owner, topic, in_flight = self._system.monotonic(), self._owner, self._topic, self._in_flight
        new = pending_acks(owner, topic, records, now) if self.tracks else [PendingAcks(owner, topic, records, now)]
        opened = set(new)
        with in_flight.changed:  # no calls in here: see `Buffer.take`
            in_flight.open |= opened
            in_flight.untaken += new
            self._buffer.taken = []

    def _push_locked(self) -> None:
        untaken = self._in_flight.untaken
        while untaken:
            pending = untaken[0]
            stopped = self._write_locked(pending)
            if stopped is not None:
                if self._system.monotonic() - pending.since < self._settings.delivery_timeout:
                    self._owner.stalled()
                    return
                pending.give_up(stopped)
            untaken.popleft()

    def _write_locked(self, pending: Pending) -> Exception | None:
        """Why the client did not take all records; None: it did."""
        client = None
        try:
            client = self._owner.client()
            rest = pending.records[pending.taken :] if pending.taken else pending.records
            taken = client.write(self._topic, rest, pending.acknowledged())
            pending.taken += taken
        except (BrokerError, ConfigurationError) as error:
            if client is not None:
                self._owner.broken(client)
            return error
        except BaseException as error:
            # It is unknown what was written: a second attempt could repeat records.
            if isinstance(error, Exception):
                logger.exception("%s, topic %s: a bug while writing", self._adapter.cluster, self._topic)
                pending.doubt(error)
                return None
            pending.doubt(BrokerError(f"{type(error).__name__} while it was written: it may still arrive"))
            raise
        return None if taken == len(rest) else self.no_room()

    def give_up(self) -> None:
        """Fails the records that the client has not taken."""
        with self.lock:
            self.take_locked()
            while self._in_flight.untaken:
                self._in_flight.untaken.popleft().give_up(self.no_room())

    def no_room(self) -> BrokerError:
        where = f"{self._adapter.cluster}, topic {self._topic}"
        return BrokerError(f"{where}: the producer's queue is full, and the cluster accepts nothing", Fault.UNAVAILABLE)

    @property
    def idle(self) -> bool:
        return not self._in_flight.untaken and not self._buffer.taken and self._buffer.deadline is None

    def due(self, now: float, within: float) -> float:
        """When to `tick`, by the monotonic clock: buffered records are due `within` seconds."""
        opened = self._buffer.opened(now, within)
        return min(opened, now + RETRY) if self._in_flight.untaken else opened

    def tick(self, now: float) -> float | None:
        """Flushes when it is due. Returns the next time by the monotonic clock, None: after the next record."""
        if now >= self._checks_at:
            self._checks_at = now + (_AGAIN if self._warn_if_late(now) else _CHECK_INTERVAL)
        if self._in_flight.untaken or self._buffer.taken or self._buffer.due(now):
            # The flushing thread may be blocked, in the client or in a callback: other producers must not be.
            if not self.lock.acquire(timeout=RETRY):
                return now + RETRY
            try:
                self.flush_locked()
            finally:
                self.lock.release()
        return now + RETRY if self._in_flight.untaken else self._buffer.deadline

    def _warn_if_late(self, now: float) -> bool:
        with self._in_flight.changed:
            pending = list(self._in_flight.open)
        waited = max((now - each.since for each in pending), default=0.0)
        if waited < LATE:
            return False
        logger.warning(
            "%s: records for topic %s have waited %.0f s for an acknowledgement",
            self._adapter.cluster,
            self._topic,
            waited,
        )
        return True

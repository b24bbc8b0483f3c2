"""The running producers of a process, their flush at its end, and their reset in forked children.

Buffers are found by a producer's configuration, not by its class, so a class that is pickled, copied, reloaded or given
another adapter finds the right one. A forked child starts empty: its parent keeps the records and the clients.
"""

from __future__ import annotations

import atexit
import math
import os
import sys
from collections.abc import Hashable, Iterable

from flux.core.ports import Adapter, ProducerPort, ProducerSettings, System
from flux.core.producing.buffer import Limits
from flux.producing.clients import Clients
from flux.producing.flush_thread import FlushThread
from flux.producing.producer_buffer import ProducerBuffer
from flux.producing.watches import Watch
from flux.system import SYSTEM, Lock, forks

GRACE = 5.0
"""Seconds after the delivery timeout in which a client must have reported the end of every record."""


class ProducerRegistry:
    """Thread-safe. `flux.producing.producer_buffer.Runtime` for its buffers."""

    def __init__(self, system: System = SYSTEM) -> None:
        self._inherited: list[object] = []
        self._begin(system)

    def _begin(self, system: System) -> None:
        self.system = system
        self._lock = Lock()
        self.routes: dict[object, ProducerBuffer] = {}
        """By producer class, for the hot path."""
        self._buffers: dict[Hashable, ProducerBuffer] = {}
        self._clients = Clients(system, self._lock, lambda: self.exited, self._flush_in_children_of_multiprocessing)
        self._flushing = FlushThread(system)
        self.exited = False

    def reset(self, system: System) -> None:
        """Starts empty, in a forked child or between tests. Frees nothing: a process must not free a client that
        another one made."""
        self._inherited.append(vars(self).copy())
        self._flushing.end()
        self._begin(system)

    def start_over(self, system: System) -> None:
        """Delivers everything, closes the clients, and starts empty on another System."""
        flushing = self._flushing
        self.exit()
        self._begin(system)
        flushing.end()
        flushing.wake()

    def before_fork(self) -> None:
        self._forking = self._lock
        self._forking.acquire()

    def after_fork(self) -> None:
        self._forking.release()

    # ---- producers

    def reroute(self) -> None:
        """Called when the configuration of a producer class has changed."""
        self.routes = {}

    def buffer(
        self, name: Hashable, adapter: Adapter, topic: str, settings: ProducerSettings, limits: Limits
    ) -> ProducerBuffer:
        """The buffer of the producer `name`, with its client booted. Raises ConfigurationError, BrokerError."""
        key = (name, id(adapter), topic, settings, limits)
        with self._lock:
            found = self._buffers.get(key)
            if found is None:
                found = ProducerBuffer(self, adapter, topic, settings, limits)
                if self.exited:
                    found.filling.hurry()
                self.client(found)
                self._buffers[key] = found
            elif self.exited:
                self.client(found)  # fails before a record is taken, if it can no longer be made
            return found

    def all(self) -> set[ProducerBuffer]:
        """Buffers that may have records, including released ones."""
        with self._lock:
            return self._clients.users() | self._flushing.buffers() | set(self._buffers.values())

    def close(self, buffer: ProducerBuffer, timeout: float | None = None) -> None:
        """Delivers, and closes the client unless others use it. The next record makes it again. Raises
        DeliveryError."""
        limit = buffer.settings.delivery_timeout + GRACE if timeout is None else timeout
        try:
            buffer.flush(limit)
        finally:
            with self._lock:
                self.reroute()
                self._buffers = {key: each for key, each in self._buffers.items() if each is not buffer}
            self._clients.release(buffer)

    # ---- for buffers

    def client(self, buffer: ProducerBuffer) -> ProducerPort:
        return self._clients.of(buffer)

    def broken(self, buffer: ProducerBuffer, client: ProducerPort) -> None:
        self._clients.broken(buffer, client)

    def opened(self, buffer: ProducerBuffer, within: float = math.inf) -> None:
        if not self._flushing.add(buffer, not self.exited, within):
            buffer.filling.hurry()
            buffer.pass_on()
        self.passed_on(buffer)

    def stalled(self, buffer: ProducerBuffer) -> None:
        self._flushing.add(buffer, not self.exited)

    def passed_on(self, buffer: ProducerBuffer) -> None:
        if self.exited:
            self._drain([buffer])

    # ---- the end

    def deliver_all(self) -> None:
        """Delivers the records of all producers; failures are reported."""
        self._drain(self.all())

    def exit(self, limit: float = math.inf) -> None:
        """At the end of the process: delivers everything, within `limit` seconds; failures are reported. A later record
        (of another exit handler or a daemon thread) waits for its own delivery, since nothing else would."""
        self.exited = True
        self.reroute()
        buffers = self.all()
        try:
            for buffer in buffers:
                buffer.filling.hurry()
            until = self.system.monotonic() + limit
            self._drain(self.all(), limit)
            if self.system.monotonic() >= until:
                for buffer in buffers:
                    buffer.flusher.give_up()
        except BaseException:  # such as a second interrupt
            for buffer in buffers:
                buffer.flusher.give_up()
            raise
        finally:
            self._clients.close()

    def _drain(self, buffers: Iterable[ProducerBuffer], limit: float = math.inf) -> None:
        watches: list[tuple[ProducerBuffer, Watch]] = []
        began = self.system.monotonic()
        try:
            watches.extend((buffer, buffer.watch()) for buffer in buffers)
            for buffer, watch in watches:
                longest = min(limit, buffer.settings.delivery_timeout + GRACE)
                buffer.waits.wait(watch, began + longest - self.system.monotonic())
        finally:
            for buffer, watch in watches:
                buffer.waits.abandon(watch)

    def _flush_in_children_of_multiprocessing(self) -> None:
        # These end without atexit's handlers, but with their own finalizers.
        multiprocessing = sys.modules.get("multiprocessing.process")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, self.exit, exitpriority=100)


PRODUCERS = ProducerRegistry()
atexit.register(PRODUCERS.exit)
forks.before_end(PRODUCERS.exit)
if hasattr(os, "register_at_fork"):
    # A fork waits while a client is made: the child could not use half of one.
    os.register_at_fork(
        before=PRODUCERS.before_fork,
        after_in_parent=PRODUCERS.after_fork,
        after_in_child=lambda: PRODUCERS.reset(PRODUCERS.system),
    )

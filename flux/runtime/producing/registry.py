"""The running producers of a process: which there are, the clients that they share, and the thread that flushes them.

Nothing here hangs on a producer class, so a class that is pickled, copied, reloaded or given another adapter finds its
buffer, or another, by what it is configured with. A forked child starts with nothing: its parent still has the records
and the clients.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import sys
import threading
from collections.abc import Hashable, Iterable

import attrs

from flux.core.buffer import Limits
from flux.core.duties import Duty
from flux.core.errors import BrokerError
from flux.core.ports import Adapter, ProducerPort, ProducerSettings, System
from flux.runtime.ending import refused
from flux.runtime.producing.flusher import RETRY
from flux.runtime.producing.producer_buffer import ProducerBuffer
from flux.runtime.producing.waits import Watch
from flux.system import SYSTEM, Lock

logger = logging.getLogger("flux.producer")

GRACE = 5.0
"""Seconds beyond the delivery timeout within which a client must have told the end of every record."""


@attrs.define(slots=True, eq=False)
class Client:
    port: ProducerPort
    users: set[ProducerBuffer] = attrs.field(factory=set)


ClientKey = tuple[int, ProducerSettings]


class ProducerRegistry:
    """Thread-safe. `flux.runtime.producing.producer_buffer.Runtime` for its buffers."""

    def __init__(self, system: System = SYSTEM) -> None:
        self._inherited: list[object] = []
        self.reset(system)

    def reset(self, system: System) -> None:
        """Forgets everything, in a forked child or between tests, and frees nothing: a client must not be freed in a
        process that did not make it."""
        self._inherited.append(vars(self).copy())
        self._begin(system)

    def before_fork(self) -> None:
        self._forking = self._lock
        self._forking.acquire()

    def after_fork(self) -> None:
        self._forking.release()

    def start_over(self, system: System) -> None:
        """Delivers everything, closes the clients, and begins anew on another machine."""
        wake = self._wake
        self.exit()
        self._begin(system)
        with wake:
            wake.notify_all()

    def _begin(self, system: System) -> None:
        self.system = system
        self._lock = Lock()
        self.routes: dict[object, ProducerBuffer] = {}
        """By producer class, for its hot path."""
        self._buffers: dict[Hashable, ProducerBuffer] = {}
        self._clients: dict[ClientKey, Client] = {}
        self._tended: set[ProducerBuffer] = set()
        self._wake = system.condition()
        self._woken = False
        self._wakes_at = math.inf
        self._flusher: object | None = None
        """The token of the thread that flushes."""
        self._flushing = Duty("the flushing of producers", take_over=self._replaced)
        self.exited = False

    def reroute(self) -> None:
        """What producer classes are configured with has changed."""
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
                self.client(found)  # one that cannot be made any more is found out before a record is taken
            return found

    def client(self, buffer: ProducerBuffer) -> ProducerPort:
        with self._lock:
            key = _client_key(buffer)
            client = self._clients.get(key)
            if client is None:
                client = self._clients[key] = Client(self._made(buffer))
                self._flush_in_children_of_multiprocessing()
            client.users.add(buffer)
            return client.port

    def _made(self, buffer: ProducerBuffer) -> ProducerPort:
        try:
            return buffer.adapter.producer(buffer.settings)
        except RuntimeError:
            if not self.exited and threading.main_thread().is_alive():
                raise
            raise refused(buffer.topic) from None  # Python 3.12 starts no thread when the main one has ended

    def broken(self, buffer: ProducerBuffer, client: ProducerPort) -> None:
        with self._lock:
            key = _client_key(buffer)
            if key in self._clients and self._clients[key].port is client:
                del self._clients[key]
            else:
                return
        # Elsewhere: this may be a thread of the client's own, which its end waits for.
        self.system.spawn("flux-broken-client", lambda: _close(client))

    def shutdown(self, buffer: ProducerBuffer, timeout: float | None = None) -> None:
        """Delivers, and closes the client unless others use it. What is produced later boots it again. Raises
        DeliveryError."""
        limit = buffer.settings.delivery_timeout + GRACE if timeout is None else timeout
        try:
            buffer.deliver(limit)
        finally:
            self.release(buffer)

    def release(self, buffer: ProducerBuffer) -> None:
        with self._lock:
            self.reroute()
            self._buffers = {key: each for key, each in self._buffers.items() if each is not buffer}
            key = _client_key(buffer)
            client = self._clients.get(key)
            if client is None:
                return
            client.users.discard(buffer)
            if client.users:
                return
            del self._clients[key]
        _close(client.port)

    def opened(self, buffer: ProducerBuffer) -> None:
        if not self._tend(buffer):
            buffer.filling.hurry()
            buffer.flush()
        self.handed_on(buffer)

    def stalled(self, buffer: ProducerBuffer) -> None:
        self._tend(buffer)

    def handed_on(self, buffer: ProducerBuffer) -> None:
        if self.exited:
            self._drain([buffer])

    def _tend(self, buffer: ProducerBuffer) -> bool:
        """Whether there is a thread for it: see `_made`."""
        with self._wake:
            due = buffer.flusher.due(self.system.monotonic())
            self._tended.add(buffer)
            if due < self._wakes_at:
                self._woken = True
                self._wake.notify()
            if self._flusher is None and not self.exited:
                try:
                    self._replaced()
                except RuntimeError:
                    self._flusher = None
                    return False
                self.system.watch(self._flushing)
        return True

    def _replaced(self) -> bool:
        """The thread that flushes stands in one producer: another flushes the others."""
        self._flusher = object()
        self.system.spawn("flux-producers", self._run)
        return True

    def _run(self) -> None:
        wake, me = self._wake, self._flusher
        while True:
            due = self.tick()
            with wake:
                if self._wake is not wake or self._flusher is not me:
                    return  # it is another machine's or another thread's by now
                self._flushing.rest()
                if not self._woken:
                    self._wakes_at = math.inf if due is None else due
                    wake.wait(None if due is None else max(0.0, due - self.system.monotonic()))
                    self._wakes_at = math.inf
                self._woken = False

    def tick(self) -> float | None:
        """Flushes what is due; the next time by the monotonic clock, None when nothing is buffered."""
        with self._wake:
            tended = list(self._tended)
        dues = []
        for buffer in tended:
            due: float | None = self.system.monotonic() + RETRY
            self._flushing.step(threading.get_ident())
            try:
                due = buffer.flusher.tick(self.system.monotonic())
            except Exception:
                logger.exception("topic %s could not be flushed", buffer.topic)
            if due is not None:
                dues.append(due)
        with self._wake:
            self._tended -= {each for each in tended if each.flusher.idle}
        return min(dues, default=None)

    def deliver_all(self) -> None:
        """Delivers what any producer of this process has taken; what fails is reported."""
        self._drain(self._all())

    def _all(self) -> set[ProducerBuffer]:
        with self._lock:
            users = {buffer for client in self._clients.values() for buffer in client.users}
            return users | self._tended | set(self._buffers.values())

    def exit(self, limit: float = math.inf) -> None:
        """At the end of the process: delivers everything, in `limit` seconds at most; what fails is reported. Whoever
        produces later (another exit handler, a daemon thread) waits for the delivery: nobody else would."""
        self.exited = True
        self.reroute()
        buffers = self._all()
        try:
            for buffer in buffers:
                buffer.filling.hurry()
            until = self.system.monotonic() + limit
            self._drain(self._all(), limit)
            if self.system.monotonic() >= until:
                for buffer in buffers:
                    buffer.flusher.give_up()
        except BaseException:  # such as a second interrupt
            for buffer in buffers:
                buffer.flusher.give_up()
            raise
        finally:
            with self._lock:
                clients, self._clients = self._clients, {}
            for client in clients.values():
                _close(client.port)

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
        # They end without running atexit's handlers, but do run these.
        multiprocessing = sys.modules.get("multiprocessing.process")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, self.exit, exitpriority=100)


def _close(port: ProducerPort) -> None:
    with contextlib.suppress(BrokerError):
        port.close(0)


def _client_key(buffer: ProducerBuffer) -> ClientKey:
    return id(buffer.adapter), buffer.settings


PRODUCERS = ProducerRegistry()
atexit.register(PRODUCERS.exit)
if hasattr(os, "register_at_fork"):
    # A fork waits for a client that is being made: the child could not make its own beside half of one.
    os.register_at_fork(
        before=PRODUCERS.before_fork,
        after_in_parent=PRODUCERS.after_fork,
        after_in_child=lambda: PRODUCERS.reset(PRODUCERS.system),
    )

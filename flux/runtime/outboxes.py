"""The running producers of a process: which there are, the clients that they share, and the thread that flushes them.

Nothing here hangs on a producer class, so a class that is pickled, copied, reloaded or given another adapter finds its
outbox, or another, by what it is configured with. A forked child starts with nothing: its parent still has the records
and the clients.
"""

from __future__ import annotations

import atexit
import contextlib
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
from flux.runtime.outbox import RETRY, Outbox, Watch, logger
from flux.system import SYSTEM, Lock

GRACE = 5.0
"""Seconds beyond the delivery timeout within which a client must have told the end of every record."""


@attrs.define(slots=True, eq=False)
class Client:
    port: ProducerPort
    users: set[Outbox] = attrs.field(factory=set)


ClientKey = tuple[int, ProducerSettings]


class Outboxes:
    """Thread-safe. `flux.runtime.outbox.Runtime` for its outboxes."""

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
        self.routes: dict[object, Outbox] = {}
        """By producer class, for its hot path."""
        self._outboxes: dict[Hashable, Outbox] = {}
        self._clients: dict[ClientKey, Client] = {}
        self._tended: set[Outbox] = set()
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

    def outbox(
        self, name: Hashable, adapter: Adapter, topic: str, settings: ProducerSettings, limits: Limits
    ) -> Outbox:
        """The outbox of the producer `name`, with its client booted. Raises ConfigurationError, BrokerError."""
        key = (name, id(adapter), topic, settings, limits)
        with self._lock:
            found = self._outboxes.get(key)
            if found is None:
                found = Outbox(self, adapter, topic, settings, limits)
                if self.exited:
                    found.buffer.hurry()
                self.client(found)
                self._outboxes[key] = found
            elif self.exited:
                self.client(found)  # one that cannot be made any more is found out before a record is taken
            return found

    def client(self, outbox: Outbox) -> ProducerPort:
        with self._lock:
            key = _client_key(outbox)
            client = self._clients.get(key)
            if client is None:
                client = self._clients[key] = Client(self._made(outbox))
                self._flush_in_children_of_multiprocessing()
            client.users.add(outbox)
            return client.port

    def _made(self, outbox: Outbox) -> ProducerPort:
        try:
            return outbox.adapter.producer(outbox.settings)
        except RuntimeError:
            if not self.exited and threading.main_thread().is_alive():
                raise
            raise refused(outbox.topic) from None  # Python 3.12 starts no thread when the main one has ended

    def broken(self, outbox: Outbox, client: ProducerPort) -> None:
        with self._lock:
            key = _client_key(outbox)
            if key in self._clients and self._clients[key].port is client:
                del self._clients[key]
            else:
                return
        # Elsewhere: this may be a thread of the client's own, which its end waits for.
        self.system.spawn("flux-broken-client", lambda: _close(client))

    def shutdown(self, outbox: Outbox, timeout: float | None = None) -> None:
        """Delivers, and closes the client unless others use it. What is produced later boots it again. Raises
        DeliveryError."""
        limit = outbox.settings.delivery_timeout + GRACE if timeout is None else timeout
        try:
            outbox.deliver(limit)
        finally:
            self.release(outbox)

    def release(self, outbox: Outbox) -> None:
        with self._lock:
            self.reroute()
            self._outboxes = {key: each for key, each in self._outboxes.items() if each is not outbox}
            key = _client_key(outbox)
            client = self._clients.get(key)
            if client is None:
                return
            client.users.discard(outbox)
            if client.users:
                return
            del self._clients[key]
        _close(client.port)

    def opened(self, outbox: Outbox) -> None:
        if not self._tend(outbox):
            outbox.buffer.hurry()
            outbox.flush()
        self.handed_on(outbox)

    def stalled(self, outbox: Outbox) -> None:
        self._tend(outbox)

    def handed_on(self, outbox: Outbox) -> None:
        if self.exited:
            self._drain([outbox])

    def _tend(self, outbox: Outbox) -> bool:
        """Whether there is a thread for it: see `_made`."""
        with self._wake:
            due = outbox.due(self.system.monotonic())
            self._tended.add(outbox)
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
        for outbox in tended:
            due: float | None = self.system.monotonic() + RETRY
            self._flushing.step(threading.get_ident())
            try:
                due = outbox.tick(self.system.monotonic())
            except Exception:
                logger.exception("topic %s could not be flushed", outbox.topic)
            if due is not None:
                dues.append(due)
        with self._wake:
            self._tended -= {each for each in tended if each.idle}
        return min(dues, default=None)

    def deliver_all(self) -> None:
        """Delivers what any producer of this process has taken; what fails is reported."""
        self._drain(self._all())

    def _all(self) -> set[Outbox]:
        with self._lock:
            users = {outbox for client in self._clients.values() for outbox in client.users}
            return users | self._tended | set(self._outboxes.values())

    def exit(self, limit: float = math.inf) -> None:
        """At the end of the process: delivers everything, in `limit` seconds at most; what fails is reported. Whoever
        produces later (another exit handler, a daemon thread) waits for the delivery: nobody else would."""
        self.exited = True
        self.reroute()
        outboxes = self._all()
        try:
            for outbox in outboxes:
                outbox.buffer.hurry()
            until = self.system.monotonic() + limit
            self._drain(self._all(), limit)
            if self.system.monotonic() >= until:
                for outbox in outboxes:
                    outbox.give_up()
        except BaseException:  # such as a second interrupt
            for outbox in outboxes:
                outbox.give_up()
            raise
        finally:
            with self._lock:
                clients, self._clients = self._clients, {}
            for client in clients.values():
                _close(client.port)

    def _drain(self, outboxes: Iterable[Outbox], limit: float = math.inf) -> None:
        watches: list[tuple[Outbox, Watch]] = []
        began = self.system.monotonic()
        try:
            watches.extend((outbox, outbox.watch(lambda: None)) for outbox in outboxes)
            for outbox, watch in watches:
                longest = min(limit, outbox.settings.delivery_timeout + GRACE)
                outbox.wait(watch, began + longest - self.system.monotonic())
        finally:
            for outbox, watch in watches:
                outbox.abandon(watch)

    def _flush_in_children_of_multiprocessing(self) -> None:
        # They end without running atexit's handlers, but do run these.
        multiprocessing = sys.modules.get("multiprocessing.process")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, self.exit, exitpriority=100)


def _close(port: ProducerPort) -> None:
    with contextlib.suppress(BrokerError):
        port.close(0)


def _client_key(outbox: Outbox) -> ClientKey:
    return id(outbox.adapter), outbox.settings


OUTBOXES = Outboxes()
atexit.register(OUTBOXES.exit)
if hasattr(os, "register_at_fork"):
    # A fork waits for a client that is being made: the child could not make its own beside half of one.
    os.register_at_fork(
        before=OUTBOXES.before_fork,
        after_in_parent=OUTBOXES.after_fork,
        after_in_child=lambda: OUTBOXES.reset(OUTBOXES.system),
    )

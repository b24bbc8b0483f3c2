"""The clients that the producers of a process share: one for each adapter and its settings."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import attrs

from flux.core.errors import BrokerError
from flux.core.ports import ProducerPort, ProducerSettings, System
from flux.producing.producer_buffer import ProducerBuffer
from flux.system import Lock
from flux.system.process_end import refused


@attrs.define(slots=True, eq=False)
class SharedClient:
    port: ProducerPort
    users: set[ProducerBuffer] = attrs.field(factory=set)


Key = tuple[int, ProducerSettings]


class Clients:
    """`lock` is held while a client is made. `exited`: whether the process is ending. `made` is called after each new
    client, while the lock is held."""

    def __init__(self, system: System, lock: Lock, exited: Callable[[], bool], made: Callable[[], None]) -> None:
        self._system = system
        self._lock = lock
        self._exited = exited
        self._made = made
        self._clients: dict[Key, SharedClient] = {}

    def of(self, buffer: ProducerBuffer) -> ProducerPort:
        """The buffer's client, made now if necessary. Raises ConfigurationError, BrokerError."""
        with self._lock:
            key = _key(buffer)
            client = self._clients.get(key)
            if client is None:
                client = self._clients[key] = SharedClient(self._make_locked(buffer))
                self._made()
            client.users.add(buffer)
            return client.port

    def _make_locked(self, buffer: ProducerBuffer) -> ProducerPort:
        try:
            return buffer.adapter.producer(buffer.settings)
        except RuntimeError:
            if not self._exited() and threading.main_thread().is_alive():
                raise
            raise refused(buffer.topic) from None  # Python 3.12 starts no thread after the main one has ended

    def broken(self, buffer: ProducerBuffer, client: ProducerPort) -> None:
        """The client cannot continue: the next `of` makes another."""
        with self._lock:
            key = _key(buffer)
            if key not in self._clients or self._clients[key].port is not client:
                return
            del self._clients[key]
        # On another thread: this one may be the client's own, for which its close waits.
        self._system.spawn("flux-broken-client", lambda: _close(client))

    def release(self, buffer: ProducerBuffer) -> None:
        """Closes the buffer's client, unless other buffers use it."""
        with self._lock:
            key = _key(buffer)
            client = self._clients.get(key)
            if client is None:
                return
            client.users.discard(buffer)
            if client.users:
                return
            del self._clients[key]
        _close(client.port)

    def users(self) -> set[ProducerBuffer]:
        with self._lock:
            return {buffer for client in self._clients.values() for buffer in client.users}

    def close(self) -> None:
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            _close(client.port)


def _key(buffer: ProducerBuffer) -> Key:
    return id(buffer.adapter), buffer.settings


def _close(port: ProducerPort) -> None:
    with contextlib.suppress(BrokerError):
        port.close(0)

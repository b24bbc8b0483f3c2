"""Clients that the tasks of a worker share: for each adapter an admin, and a writer of forwarded copies.

A client of librdkafka is three or four threads and one or two connections, whatever it does.
"""

from __future__ import annotations

from contextlib import ExitStack

import attrs

from flux.consuming.forwarder import ForwardWriter
from flux.core.errors import BrokerError, Fault
from flux.core.ports import AdminPort, Cluster, ProducerSettings, System
from flux.system import Lock

_CLOSE = 5.0  # seconds


@attrs.define(eq=False)
class _Shared:
    """Of one adapter. `writers`: by what they are made for; topics with other limits need another."""

    adapter: Cluster
    admin: AdminPort | None = None
    writers: dict[ProducerSettings, ForwardWriter] = attrs.field(factory=dict)
    users: set[object] = attrs.field(factory=set)


class ClusterClients:
    """Of one worker. Thread-safe. Each is made for the first task that needs it, and closed with the last. A task that
    has left gets none, as nobody would close it: `admin` and `writer` raise BrokerError (FATAL)."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._lock = Lock()
        self._shared: dict[int, _Shared] = {}
        self._left: set[object] = set()

    def admin(self, user: object, adapter: Cluster) -> AdminPort:
        with self._lock:
            shared = self._of_locked(user, adapter)
            if shared.admin is None:
                shared.admin = adapter.admin()
            return shared.admin

    def writer(self, user: object, adapter: Cluster, settings: ProducerSettings) -> ForwardWriter:
        """It makes its client later."""
        with self._lock:
            writers = self._of_locked(user, adapter).writers
            if settings not in writers:
                writers[settings] = ForwardWriter(adapter, settings, self._system)
            return writers[settings]

    def leave(self, user: object) -> None:
        """Closes what no other task uses. Blocks."""
        with self._lock:
            self._left.add(user)
            for shared in self._shared.values():
                shared.users.discard(user)
            unused = [shared for shared in self._shared.values() if not shared.users]
            for shared in unused:
                del self._shared[id(shared.adapter)]
        with ExitStack() as closing:  # each, even if another one cannot be closed
            for shared in unused:
                if shared.admin is not None:
                    closing.callback(shared.admin.close)
                for writer in shared.writers.values():
                    closing.callback(writer.close, _CLOSE)

    def _of_locked(self, user: object, adapter: Cluster) -> _Shared:
        if user in self._left:
            raise BrokerError("the task has ended", Fault.FATAL)
        shared = self._shared.setdefault(id(adapter), _Shared(adapter))
        shared.users.add(user)
        return shared

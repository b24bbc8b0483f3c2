"""Writes hops: the only way in which a record leaves a stage. Acknowledged by all in-sync replicas, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from flux.core.dues import whole_ms
from flux.core.errors import BrokerError, Fault
from flux.core.hops import Hop
from flux.core.ports import Cluster, ProducerPort, ProducerSettings, System
from flux.runtime.spreading import Spreading

_ASK = 10.0
_ROOM = 5.0  # seconds to wait for room in the client's queue
_AGAIN = 0.01

Ended = Callable[[BrokerError | None], None]


class Writer:
    """One cluster's producer for hops. Thread-safe; boots its client again when it broke."""

    def __init__(self, adapter: Cluster, settings: ProducerSettings, system: System) -> None:
        self._adapter = adapter
        self._settings = settings
        self._system = system
        self._client: ProducerPort | None = None

    def write(self, hop: Hop, limit: int | None, ended: Ended) -> BrokerError | None:
        """Hands one hop to the client. `ended` is told its end exactly once, on this thread or the client's. Returns
        why the cluster takes none now, if it does not."""
        transfer, system = hop.transfer, self._system
        client: ProducerPort | None = None
        try:
            client = self._client = self._client or self._adapter.producer(self._settings)
            transfer.partitions = client.partitions(transfer.target.topic, _ASK)
            outgoing = transfer.outgoing(whole_ms(system.now()), limit)
            deadline = system.monotonic() + _ROOM
            while not client.write(transfer.target.topic, [outgoing], lambda error, _: ended(error)):
                if system.monotonic() >= deadline:
                    raise BrokerError("the client's queue has no room", Fault.UNAVAILABLE)
                system.sleep(_AGAIN)
        except BrokerError as error:
            if error.fault is Fault.FATAL and client is not None:
                self.close(0)
            ended(error)
            return error if error.fault is Fault.UNAVAILABLE else None
        return None

    def renew(self) -> None:
        """The next hop gets another client: a thread stands still in this one, which is left to it."""
        self._client = None

    def warm_up(self, topics: Iterable[str]) -> None:
        """Connects, and asks for the topics' partitions, so that the first hop need not. Raises BrokerError."""
        self._client = self._client or self._adapter.producer(self._settings)
        spreading = Spreading(self._system)
        for topic in topics:
            try:
                spreading.known(partial(self._client.partitions, topic, _ASK))
            except BrokerError as error:
                if error.fault is not Fault.UNKNOWN_TOPIC:  # else a hop to it is kept, and the log says so
                    raise

    def close(self, timeout: float) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout)

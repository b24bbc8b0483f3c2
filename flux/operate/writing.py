"""Writes records and waits until all in-sync replicas have them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from flux.core.errors import BrokerError, Fault
from flux.core.ports import Cluster, Codec, ProducerPort, ProducerRecord, ProducerSettings, Record, System
from flux.system import SYSTEM

CHUNK = 500
"""Records in flight."""
DELIVERY = 30.0
"""Seconds until a write has failed."""
_BATCH = 256 * 1024
_ROOM = 1.0


def write_all(
    adapter: Cluster, topic: str, records: Sequence[ProducerRecord], system: System, compression: Codec = "best"
) -> None:
    """Writes a few records, and nothing more. Raises BrokerError unless all are acknowledged."""
    writing = TopicWriter(adapter, topic, None, system, compression)
    try:
        there, failure = writing.write(records)
    finally:
        writing.close()
    if there < len(records):
        assert failure is not None
        raise failure


class TopicWriter:
    """Writes to one topic, which accepts batches of `limit` bytes (None: not known)."""

    def __init__(
        self,
        adapter: Cluster,
        topic: str,
        limit: int | None,
        system: System = SYSTEM,
        compression: Codec = "best",
    ) -> None:
        self._adapter = adapter
        self._topic = topic
        self._settings = ProducerSettings(
            acks="all", compression=compression, delivery_timeout=DELIVERY, max_batch_bytes=min(_BATCH, limit or _BATCH)
        )
        self._system = system
        self._client: ProducerPort | None = None

    def write(self, records: Sequence[ProducerRecord]) -> tuple[int, BrokerError | None]:
        """Returns how many records, from the first on, are acknowledged, and why the next one is not. Later ones may be
        written all the same."""
        if not records:
            return 0, None
        ends: list[BrokerError | bool] = [False] * len(records)
        failure: BrokerError | None = None

        def ended(index: int, error: BrokerError | None, _: Record) -> None:
            ends[index] = error or True

        try:
            client = self._client = self._client or self._adapter.producer(self._settings)
            deadline = self._system.monotonic() + DELIVERY
            for index, record in enumerate(records):
                while not client.write(self._topic, [record], partial(ended, index)):
                    if self._system.monotonic() > deadline:
                        raise BrokerError("the client's queue has no room", Fault.UNAVAILABLE)
                    client.flush(_ROOM)
            client.flush(DELIVERY + 5.0)
        except BrokerError as error:
            failure = error
        there = next((index for index, end in enumerate(ends) if end is not True), len(ends))
        if there == len(ends):
            return there, failure
        end = ends[there]
        if isinstance(end, BrokerError):
            failure = end
        return there, failure or BrokerError(f"{self._topic} does not acknowledge what is written", Fault.UNAVAILABLE)

    def close(self) -> None:
        if self._client is not None:
            self._client.close(0)

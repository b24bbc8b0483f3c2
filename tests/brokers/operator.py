"""What a person with a client does to a real cluster, as checks of the contract need it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from confluent_kafka import IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewPartitions

_SECONDS = 30.0


class Operator:
    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def transact(self, topic: str, values: Sequence[bytes], commits: bool) -> None:
        """Records in partition 0, in a transaction that is committed or aborted. Returns when its marker is there:
        the coordinator answers before."""
        name = f"t{secrets.token_hex(6)}"
        producer = Producer({"bootstrap.servers": self._bootstrap, "transactional.id": name, "retry.backoff.ms": 10})
        producer.init_transactions(_SECONDS)
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, partition=0)
        producer.flush(_SECONDS)
        end = self._end(topic)
        (producer.commit_transaction if commits else producer.abort_transaction)(_SECONDS)
        until = time.monotonic() + _SECONDS
        while self._end(topic) == end:
            assert time.monotonic() < until, "no marker"
            time.sleep(0.01)

    def grow(self, topic: str, partitions: int) -> None:
        """To as many as that in all."""
        self._admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(_SECONDS)

    def _end(self, topic: str) -> int:
        latest = {TopicPartition(topic, 0): OffsetSpec.latest()}  # type: ignore[no-untyped-call]
        [found] = self._admin.list_offsets(latest, isolation_level=IsolationLevel.READ_UNCOMMITTED).values()
        return int(found.result(_SECONDS).offset)

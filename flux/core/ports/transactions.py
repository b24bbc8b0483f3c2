"""A transactional producer: records and committed offsets of groups that become visible together, or never.

Readers of flux are read_committed: they deliver no record of a transaction before its commit, nor a record behind the
first one of an open transaction, and `committed` waits while a transaction that has offsets for its partition is open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs

from flux.core.errors import BrokerError
from flux.core.ports.cluster import Cluster
from flux.core.ports.values import Codec, CommittedOffset, Membership, ProducerRecord, TopicPartition


@attrs.frozen
class TransactionSettings:
    """Times in seconds, sizes in bytes."""

    id: str
    """Kafka's transactional.id. A client's `start` ends what a former client of the same id left open."""
    timeout: float = 15.0
    """After which the broker aborts an open transaction. The client then gives its records up, too."""
    linger: float = 0.005
    compression: Codec = "best"
    max_batch_bytes: int | None = None
    """Limit of a batch; None: the client's default."""
    max_queue_bytes: int = 256 * 1024 * 1024
    """Limit of all records in the client."""
    one_by_one: bool = False
    """Write each record in a batch of its own, so that an error concerns one record only."""


class Superseded(BrokerError):
    """Another client of the same transactional id has started, or the broker has ended the transaction after its
    timeout. Its fault is FENCED."""


class InDoubt(BrokerError):
    """It is not known whether the transaction was committed. If it is `retriable`, the same `commit` may be called
    again. If not, only another client of the same id can find out: after its `start` the transaction has ended either
    way, and the groups' committed offsets tell which."""


class TransactionPort(Protocol):
    """Used by one thread at a time. After an error of any method, other than a retriable one of `start` and `commit`,
    it can only be closed: the next client of its id aborts what it has left open."""

    def start(self, timeout: float) -> None:
        """To be called once, before anything else. Waits until the broker has ended what a former client of this id
        left open. Raises BrokerError; after a retriable one it may be called again."""
        ...

    def partitions(self, topic: str, timeout: float) -> int:
        """As `ProducerPort.partitions`."""
        ...

    def begin(self) -> None:
        """Begins a transaction. Asks no broker."""
        ...

    def write(
        self,
        topic: str,
        records: Sequence[ProducerRecord],
        refused: Callable[[int, BrokerError], None] | None = None,
    ) -> None:
        """Hands all records to the client, in order; waits for room in its queue, at most the settings' `timeout`.
        `refused` is called with the index in `records` and the error of each one that was refused, inside this method,
        `flush` or `commit`; without it, writing is faster. Once a record was refused the transaction cannot be
        committed: what comes behind it may be left out, and `commit` raises. Raises BrokerError if the client cannot
        continue."""
        ...

    def flush(self, timeout: float) -> None:
        """Waits until each record is written or refused. Raises BrokerError if that takes longer."""
        ...

    def add_offsets(
        self, membership: Membership, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float
    ) -> None:
        """Commits offsets of a group with the transaction; several groups may follow each other. Raises BrokerError;
        FENCED if the member has left, was evicted, or has lost one of the partitions since it gave `membership`, all in
        the group's view: a client may take partitions for lost that its group has left to it, and get them again. Most
        brokers also refuse a membership from before any rebalance, even if the member has kept the partitions (not
        Kafka since 4.3: KIP-1251), and no broker checks the partitions of a present one: take it while the partitions
        are certainly owned, and late."""
        ...

    def commit(self, timeout: float) -> None:
        """Flushes and commits. Raises InDoubt, or another BrokerError if the transaction was certainly not
        committed."""
        ...

    def close(self) -> None:
        """Frees the client within seconds. An open transaction stays open until its timeout, or until the next client
        of its id starts."""
        ...


class TransactionalCluster(Cluster, Protocol):
    """A cluster through a client that commits a group's offsets in transactions, fenced by the group's generation."""

    def transactions(self, settings: TransactionSettings) -> TransactionPort: ...

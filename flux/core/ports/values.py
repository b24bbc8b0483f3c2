"""Values that a cluster and flux exchange: records, offsets, settings, metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import attrs

BEGINNING = -2
"""A start offset: the oldest record that the partition still holds."""
END = -1
"""A start offset: after the newest record."""

Headers = Sequence[tuple[str, bytes | None]]

Codec = Literal["none", "gzip", "snappy", "lz4", "zstd", "best"]
"""best: the first of zstd, lz4 and gzip that the client has here."""

Membership = object
"""Who a consumer is in its group, generation included. Made and read by one adapter; equal to another one of the same
member in the same generation."""


class TopicPartition(NamedTuple):
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Record(Protocol):
    """A record of a client. It has methods instead of fields so that confluent-kafka's message is one as it is."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...

    def headers(self) -> Headers | None:
        """In order, repeats kept. May raise if they cannot be read; is called once per record only."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """(type, milliseconds since the epoch); type 0 if there is none."""
        ...


@attrs.define(slots=True)
class Batch:
    """Records of one partition in offset order, never empty."""

    partition: TopicPartition
    records: list[Any]  # of Record; Any keeps the hot loop free of casts


@attrs.define(slots=True)
class PollResult:
    """The result of one poll. A partition may be in several batches, which are in offset order.

    `out_of_range`: partitions whose fetch position the log no longer holds; they deliver nothing until `seek`.
    `reached`: the fetch positions of partitions that are read to their ends, as far as known. One may be past the last
    record if the log ends with something else, such as a transaction marker, but never past a record that will still be
    delivered."""

    batches: list[Batch] = attrs.field(factory=list)
    out_of_range: list[TopicPartition] = attrs.field(factory=list)
    reached: dict[TopicPartition, int] = attrs.field(factory=dict)


class CommittedOffset(NamedTuple):
    """A committed offset, which is that of the next record to process, and the metadata stored with it."""

    offset: int
    metadata: str = ""


@attrs.frozen
class ConsumerSettings:
    """One member of one group on one topic."""

    topic: str
    group: str
    small_queue: bool = False
    """True: fetch about 4 MB of records ahead (retry stages); False: as much as gives the best throughput."""
    instance_suffix: str = ""
    """Appended to the static membership id, if the adapter's options have one."""
    task: str = ""
    """The task's name; part of the member's client id, unless the adapter's options have one."""


class ProducerRecord(NamedTuple):
    """A record to write; a tuple, because one is made for each produced record. `partition` None: chosen by Kafka's
    murmur2 partitioner, random or sticky without a key. `timestamp`: milliseconds since the epoch; None: the client's
    time."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None
    timestamp: int | None = None


@attrs.frozen(cache_hash=True)
class ProducerSettings:
    """How records are written. Times in seconds, sizes in bytes."""

    acks: Literal["all", "1", "0"] = "all"
    compression: Codec = "none"
    delivery_timeout: float = 120.0
    linger: float = 0.005
    max_batch_bytes: int | None = None
    """Limit of a batch; None: the client's default."""
    max_queue_bytes: int = 256 * 1024 * 1024
    """Limit of all records in the client, unacknowledged ones included."""


@attrs.frozen
class TopicInfo:
    partitions: int
    replication_factor: int


@attrs.frozen
class NewTopic:
    """`partitions` or `replication_factor` -1: the broker's default."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = attrs.field(factory=dict)


class Watermarks(NamedTuple):
    """The offsets of a partition's oldest record and of its next record to be written."""

    low: int
    high: int


class GroupMember(NamedTuple):
    """A member of a consumer group, as its coordinator reports it."""

    id: str
    client_id: str
    host: str
    partitions: tuple[TopicPartition, ...]


@attrs.frozen
class GroupProtocol:
    """How a group assigns partitions, by Kafka's names: `cooperative-sticky`, `range`, …, and `consumer` if the broker
    decides (KIP-848)."""

    used: str
    """The group's protocol; empty if it has no members or the broker does not report it."""
    ours: tuple[str, ...]
    """The protocols of this adapter's consumers. A member that shares none with the others is refused."""


@attrs.frozen
class Permissions:
    """The login's permissions, by Kafka's names of operations (`READ`, `DESCRIBE_CONFIGS`, …). None: not reported, as
    for a topic that does not exist. Source: KIP-430."""

    topics: Mapping[str, frozenset[str] | None]
    groups: Mapping[str, frozenset[str] | None]
    cluster: frozenset[str] | None

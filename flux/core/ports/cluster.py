"""A cluster, as flux uses it: consumer, producer, admin, reader.

An adapter implements these protocols and nothing more. It makes no decision: it reports what happened and does what
these methods say. It translates errors of its client into `BrokerError` or `ConfigurationError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Protocol

from flux.core.errors import BrokerError
from flux.core.ports.values import (
    CommittedOffset,
    ConsumerSettings,
    GroupMember,
    GroupProtocol,
    Membership,
    NewTopic,
    Permissions,
    PollResult,
    ProducerRecord,
    ProducerSettings,
    Record,
    TopicInfo,
    TopicPartition,
    Watermarks,
)


class RebalanceListener(Protocol):
    """Called by the consumer inside `poll` or `close`, on the caller's thread. Its methods do not raise."""

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """New partitions; empty if the group has none, or no more, for this member. Returns the start offset of each
        (or BEGINNING, END). They start unpaused."""
        ...

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """The partitions are about to be revoked: `commit_now` still works inside."""
        ...

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        """The partitions were lost: another member may own them."""
        ...


class ConsumerPort(Protocol):
    """Used by one thread at a time. Never commits, resets or pauses by itself."""

    max_poll_interval: float
    """Seconds between two polls after which the group takes the partitions away."""

    def poll(self, max_records: int, timeout: float) -> PollResult:
        """Up to `max_records`, as soon as there is one. Nothing after `timeout` seconds, or earlier, once, when the end
        of a partition is reached. Raises BrokerError if the consumer cannot continue (LOGIN, DENIED, UNKNOWN_TOPIC,
        FENCED, FATAL); an unavailable cluster is no error."""
        ...

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver no records of these partitions until `resume`. Partitions that are not assigned are ignored."""
        ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None: ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Deliver records from `offset` (or BEGINNING, END) on."""
        ...

    def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset | None]:
        """The group's committed offsets; None if a partition has none. Raises BrokerError."""
        ...

    def commit(
        self, offsets: Mapping[TopicPartition, CommittedOffset], done: Callable[[BrokerError | None], None]
    ) -> None:
        """Starts a commit. `done` is called once: inside a later `poll` or `close`, or before this returns."""
        ...

    def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        """Commits and waits. Raises BrokerError."""
        ...

    def membership(self) -> Membership | None:
        """For `TransactionPort.add_offsets`; unlike the rest, any thread may call it at any time, and it does not wait.
        None while the consumer is no member of its group: the broker would accept such offsets from anybody."""
        ...

    def close(self) -> None:
        """Leaves the group (calling the listener for what it still owns) and frees the client."""
        ...


Acknowledged = Callable[[BrokerError | None, "Record"], None]
"""Called once per record: with None and the written record, or with the error and the record as it was given."""


def each_of(
    acknowledged: Acknowledged | Sequence[Acknowledged], records: Sequence[ProducerRecord]
) -> Iterable[Acknowledged]:
    """The `acknowledged` of `ProducerPort.write`, as one callback for each record."""
    return acknowledged if isinstance(acknowledged, Sequence) else repeat(acknowledged, len(records))


class ProducerPort(Protocol):
    """Thread-safe. Serves its own acknowledgements."""

    def write(
        self,
        topic: str,
        records: Sequence[ProducerRecord],
        acknowledged: Acknowledged | Sequence[Acknowledged],
    ) -> int:
        """Hands records to the client, in order. Returns how many it took: fewer if its queue is full, then keep the
        rest and try again. For each one taken, `acknowledged` (one callback for all, or one for each of `records`) is
        called exactly once, on a thread of the client or this one, with None and the written record, or with the error
        and the record as given (headers may be missing in both). A record that the client refuses counts as taken and
        is reported so. Raises BrokerError only if the producer is closed or cannot continue, and then for the first
        record not taken."""
        ...

    def partitions(self, topic: str, timeout: float) -> int:
        """Number of partitions of the topic, from metadata at most some minutes old. Raises BrokerError."""
        ...

    def flush(self, timeout: float) -> int:
        """Sends queued records at once and waits for them. Returns how many are still unacknowledged."""
        ...

    def close(self, timeout: float) -> int:
        """`flush`, then ends. Records that are left are reported as failed. Returns how many were left."""
        ...


class ReaderPort(Protocol):
    """Reads partitions without a group and commits nothing. Used by one thread at a time."""

    def poll(self, max_records: int, timeout: float) -> PollResult:
        """Up to `max_records`, as soon as there is one. Nothing after `timeout` seconds, or earlier when the end of a
        partition is reached: `PollResult.reached` has each partition that is read to its end. Raises BrokerError if the
        reader cannot continue (LOGIN, DENIED, UNKNOWN_TOPIC, FATAL); an unavailable cluster is no error."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Deliver records from `offset` (or BEGINNING, END) on. Raises BrokerError for a partition that is not read."""
        ...

    def close(self) -> None: ...


class AsyncRebalanceListener(Protocol):
    """`RebalanceListener` for an asyncio client: the consumer awaits it before the rebalance continues."""

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]: ...
    async def revoked(self, partitions: Sequence[TopicPartition]) -> None: ...
    async def lost(self, partitions: Sequence[TopicPartition]) -> None: ...


class AsyncConsumerPort(Protocol):
    """`ConsumerPort` for an asyncio client. Used in the event loop that it was made in."""

    max_poll_interval: float

    async def poll(self, max_records: int, timeout: float) -> PollResult:
        """A cancellation loses no records."""
        ...

    def pause(self, partitions: Iterable[TopicPartition]) -> None: ...
    def resume(self, partitions: Iterable[TopicPartition]) -> None: ...
    async def seek(self, partition: TopicPartition, offset: int) -> None: ...
    async def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset | None]: ...
    def commit(
        self, offsets: Mapping[TopicPartition, CommittedOffset], done: Callable[[BrokerError | None], None]
    ) -> None:
        """Starts a commit. `done` is called once, in the event loop."""
        ...

    async def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None: ...
    async def close(self) -> None: ...


class AdminPort(Protocol):
    """Every method takes its time limit in seconds and raises BrokerError."""

    def topic_names(self, timeout: float) -> set[str]: ...
    def topics(self, names: Iterable[str], timeout: float) -> dict[str, TopicInfo | None]:
        """None where a topic does not exist. Never creates one."""
        ...

    def topic_config(self, topic: str, timeout: float) -> dict[str, str]:
        """As it works: what the topic does not set is the brokers' default."""
        ...

    def set_topic_config(self, topic: str, config: Mapping[str, str], timeout: float) -> None:
        """These settings; the others stay. A broker may tell of it a moment later."""
        ...

    def broker_configs(self, timeout: float) -> dict[int, dict[str, str]]:
        """Of each broker, by its id, without secrets."""
        ...

    def create_topics(self, topics: Sequence[NewTopic], timeout: float) -> None:
        """One that exists already is left as it is."""
        ...

    def delete_topics(self, names: Sequence[str], timeout: float) -> None:
        """One that does not exist is passed over."""
        ...

    def permissions(self, topics: Sequence[str], groups: Sequence[str], timeout: float) -> Permissions:
        """Of this login. Raises no DENIED: who may not even look has no permission."""
        ...

    def committed_offsets(self, group: str, topic: str, timeout: float) -> dict[int, CommittedOffset]:
        """What a group has committed on a topic, by partition; empty when nothing."""
        ...

    def set_committed_offsets(
        self, group: str, topic: str, offsets: Mapping[int, CommittedOffset], timeout: float
    ) -> None:
        """By partition; those left out stay. FENCED while the group has members: their commits would undo it."""
        ...

    def members(self, group: str, timeout: float) -> list[GroupMember]:
        """Those of a group, in no order; none of one that does not exist."""
        ...

    def group_protocol(self, group: str, timeout: float) -> GroupProtocol: ...
    def unreadable_codecs(self, topic: str, timeout: float) -> Mapping[str, str]:
        """Compressions of the topic's newest records that this adapter's clients cannot read here, with the fix of
        each."""
        ...

    def watermarks(self, topic: str, timeout: float) -> dict[int, Watermarks]: ...
    def stable_offsets(self, topic: str, timeout: float) -> dict[int, int]:
        """By partition, the last stable offset: of the first record of an open transaction, or the end. Consumers get
        no record behind it."""
        ...

    def offsets_at(self, topic: str, timestamp_ms: int, timeout: float) -> dict[int, int]:
        """By partition, the offset of the first record whose timestamp is at least that (milliseconds since the
        epoch), by the partition's time index; its end as of this call where there is none."""
        ...

    def delete_records(self, topic: str, before: Mapping[int, int], timeout: float) -> None:
        """Raises the low watermark to the offset given for each partition; one below it changes nothing, one beyond
        the end is an error. For good, and on all replicas."""
        ...

    def close(self) -> None: ...


class Cluster(Protocol):
    """One cluster through one client library. Cheap to make: it connects on first use. Producers and admins are
    thread-safe, a reader is for one thread at a time."""

    @property
    def cluster(self) -> str:
        """Identifies the cluster in messages and registries; contains no secret."""
        ...

    @property
    def shares_processes(self) -> bool:
        """Whether other processes use the same cluster (an in-memory broker: False)."""
        ...

    def producer(self, settings: ProducerSettings) -> ProducerPort: ...
    def admin(self) -> AdminPort: ...
    def reader(self, starts: Mapping[TopicPartition, int]) -> ReaderPort:
        """Reads these partitions, each from its offset (or BEGINNING, END) on. It blocks in every adapter."""
        ...


class Adapter(Cluster, Protocol):
    """A cluster through a client with blocking calls."""

    def consumer(self, settings: ConsumerSettings, listener: RebalanceListener) -> ConsumerPort: ...


class AsyncAdapter(Cluster, Protocol):
    """A cluster through an asyncio client: consumers run in the event loop that processes their records."""

    async def async_consumer(
        self, settings: ConsumerSettings, listener: AsyncRebalanceListener
    ) -> AsyncConsumerPort: ...

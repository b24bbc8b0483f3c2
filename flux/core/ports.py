"""What flux needs from the world: a cluster (consumer, producer, admin) and a machine (clock, threads, wake-ups).

An adapter implements these protocols and nothing more. It makes no decision: it reports what happened and does what
it is told. Errors of the client leave it as `BrokerError` or `ConfigurationError` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal, NamedTuple, Protocol

import attrs

from flux.core.errors import BrokerError
from flux.core.monitoring.duties import Duty

BEGINNING = -2
"""A start offset: the oldest record that the partition still holds."""
END = -1
"""A start offset: after the newest record."""

Headers = Sequence[tuple[str, bytes | None]]


class TopicPartition(NamedTuple):
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Record(Protocol):
    """A record as a client hands it over. Methods, so that confluent-kafka's own message is one as it stands."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...

    def headers(self) -> Headers | None:
        """In order, repeats kept. May raise when they cannot be read; is called once per record only."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """(type, milliseconds since the epoch); type 0 when there is none."""
        ...


@attrs.define(slots=True)
class Batch:
    """Records of one partition in offset order, never empty."""

    partition: TopicPartition
    records: list[Any]  # of Record; Any keeps the hot loop free of casts


@attrs.define(slots=True)
class PollResult:
    """What one poll brought. A partition may be in several batches; their order is the order of the offsets.

    `out_of_range`: partitions whose position the log no longer holds; they deliver nothing until `seek`. `reached`: how
    far partitions are read, where that is known: beyond the last record where a log ends with something else, such as a
    transaction's marker. Never beyond a record that is still to come."""

    batches: list[Batch] = attrs.field(factory=list)
    out_of_range: list[TopicPartition] = attrs.field(factory=list)
    reached: dict[TopicPartition, int] = attrs.field(factory=dict)


class CommittedOffset(NamedTuple):
    """A committed position: the offset of the next record to work, and the string stored with it."""

    offset: int
    metadata: str = ""


class RebalanceListener(Protocol):
    """Called by the consumer inside `poll` or `close`, on the caller's thread. Its methods do not raise."""

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """New partitions; none, when the group has none for this member, or no more. Returns the offset (or BEGINNING,
        END) at which each starts, unpaused."""
        ...

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """About to be given up: `commit_now` still works inside."""
        ...

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        """Gone already: another member may own them."""
        ...


@attrs.frozen
class ConsumerSettings:
    """One member of one group on one topic."""

    topic: str
    group: str
    small_queue: bool = False
    """True: hold about 4 MB of fetched records (retry stages), else what gives the best throughput."""
    instance_suffix: str = ""
    """Appended to a static membership id, if the adapter's options give one."""


class ConsumerPort(Protocol):
    """Used by one thread at a time. Never commits, resets or pauses by itself."""

    max_poll_interval: float
    """Seconds between two polls after which the group takes the partitions away."""

    def poll(self, max_records: int, timeout: float) -> PollResult:
        """Up to `max_records`, as soon as there is one; nothing after `timeout` seconds, or sooner where an end is
        reached, once for each end. Raises BrokerError when the consumer cannot go on (LOGIN, DENIED, UNKNOWN_TOPIC,
        FENCED, FATAL); a cluster that is away is no error."""
        ...

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver nothing of them until `resume`. Partitions not assigned are ignored."""
        ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None: ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Deliver from `offset` (or BEGINNING, END) on."""
        ...

    def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset | None]:
        """The group's positions; None where it has none. Raises BrokerError."""
        ...

    def commit(
        self, offsets: Mapping[TopicPartition, CommittedOffset], done: Callable[[BrokerError | None], None]
    ) -> None:
        """Starts a commit. `done` is called once: inside a later `poll` or `close`, or before this returns."""
        ...

    def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        """Commits and waits. Raises BrokerError."""
        ...

    def close(self) -> None:
        """Leaves the group (calling the listener for what it still owns) and frees the client."""
        ...


class ProducerRecord(NamedTuple):
    """A record to write; a tuple, because one is made for each record produced. `partition` None: placed by the key as
    Kafka's own murmur2 partitioner does, by chance (or sticky) without a key. `timestamp` None: now, by the client;
    else milliseconds since the epoch."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None
    timestamp: int | None = None


@attrs.frozen(cache_hash=True)
class ProducerSettings:
    """How records are written. Times in seconds, sizes in bytes."""

    acks: Literal["all", "1", "0"] = "all"
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd", "best"] = "none"
    """best: the one that makes records smallest of zstd, lz4 and gzip, as far as the client has them here."""
    delivery_timeout: float = 120.0
    linger: float = 0.005
    max_batch_bytes: int | None = None
    """No batch grows beyond this; None: the client's default."""
    max_queue_bytes: int = 256 * 1024 * 1024
    """What the client holds at most, unacknowledged included."""


Acknowledged = Callable[[BrokerError | None, "Record"], None]
"""Called once with the end of a record: None and where it landed, or why it was not written and the record as given."""


def each_of(
    acknowledged: Acknowledged | Sequence[Acknowledged], records: Sequence[ProducerRecord]
) -> Iterable[Acknowledged]:
    """What `ProducerPort.write` is given, as one for each record."""
    return acknowledged if isinstance(acknowledged, Sequence) else repeat(acknowledged, len(records))


class ProducerPort(Protocol):
    """Thread-safe. Serves its own acknowledgements."""

    def write(
        self,
        topic: str,
        records: Sequence[ProducerRecord],
        acknowledged: Acknowledged | Sequence[Acknowledged],
    ) -> int:
        """Hands records to the client, in order; returns how many it took (fewer when its queue is full: keep the
        rest and try again). For each one taken `acknowledged` (one for all, or one for each of `records`) is called
        exactly once, on a thread of the client's or on this one: with None and where it landed, or with the error and
        the record as it was given (headers may be missing in both). A record that the client refuses is 'taken' and
        reported so. Raises BrokerError only when the producer is closed or cannot go on, and then for the first record
        not taken."""
        ...

    def partitions(self, topic: str, timeout: float) -> int:
        """How many partitions the topic has, from metadata at most some minutes old. Raises BrokerError."""
        ...

    def flush(self, timeout: float) -> int:
        """Sends what is queued at once and waits for it; returns how many are still unacknowledged."""
        ...

    def close(self, timeout: float) -> int:
        """`flush`, then ends; what is left is reported as failed. Returns how many were left."""
        ...


@attrs.frozen
class TopicInfo:
    partitions: int
    replication_factor: int


@attrs.frozen
class NewTopic:
    """Partitions and replication -1: the broker's default."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = attrs.field(factory=dict)


class Watermarks(NamedTuple):
    """The oldest offset that a partition holds, and the one that the next record will get."""

    low: int
    high: int


class GroupMember(NamedTuple):
    """A member of a consumer group, as its coordinator knows it."""

    id: str
    client_id: str
    host: str
    partitions: tuple[TopicPartition, ...]


@attrs.frozen
class GroupProtocol:
    """How members of a group agree on who works what, by Kafka's names: `cooperative-sticky`, `range`, …, and
    `consumer` where the broker decides (KIP-848)."""

    used: str
    """By its members; empty while it has none, or where the broker does not tell."""
    ours: tuple[str, ...]
    """Of this adapter's consumers. A member that shares none with the others is refused."""


@attrs.frozen
class Permissions:
    """What the login may do, by Kafka's names of operations (`READ`, `DESCRIBE_CONFIGS`, …). None: the broker does not
    tell, as for what does not exist. Source: KIP-430."""

    topics: Mapping[str, frozenset[str] | None]
    groups: Mapping[str, frozenset[str] | None]
    cluster: frozenset[str] | None


class ReaderPort(Protocol):
    """Reads partitions without a group and commits nothing. Used by one thread at a time."""

    def poll(self, max_records: int, timeout: float) -> PollResult:
        """Up to `max_records`, as soon as there is one; nothing after `timeout` seconds, or sooner where an end is
        reached: `PollResult.reached` tells of each partition that is read to its end. Raises BrokerError when the
        reader cannot go on (LOGIN, DENIED, UNKNOWN_TOPIC, FATAL); a cluster that is away is no error."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Deliver from `offset` (or BEGINNING, END) on. Raises BrokerError for a partition that is not read."""
        ...

    def close(self) -> None: ...


class AsyncRebalanceListener(Protocol):
    """`RebalanceListener` for a client of asyncio: awaited by the consumer before the rebalance goes on."""

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]: ...
    async def revoked(self, partitions: Sequence[TopicPartition]) -> None: ...
    async def lost(self, partitions: Sequence[TopicPartition]) -> None: ...


class AsyncConsumerPort(Protocol):
    """`ConsumerPort` for a client of asyncio. Used in the event loop that it was made in."""

    max_poll_interval: float

    async def poll(self, max_records: int, timeout: float) -> PollResult:
        """May be cancelled, and loses nothing then."""
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
        """Compressions of the topic's newest records that this adapter's clients cannot read here, and how each is
        mended."""
        ...

    def watermarks(self, topic: str, timeout: float) -> dict[int, Watermarks]: ...
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
    """One cluster, as one client library sees it. Cheap to make: nothing connects before the first use. Its producers
    and admins may be used from every thread, a reader by one at a time."""

    @property
    def cluster(self) -> str:
        """Tells clusters apart in messages and registries; has no secret in it."""
        ...

    @property
    def shares_processes(self) -> bool:
        """Whether other processes see the same records (an in-memory broker: False)."""
        ...

    def producer(self, settings: ProducerSettings) -> ProducerPort: ...
    def admin(self) -> AdminPort: ...
    def reader(self, starts: Mapping[TopicPartition, int]) -> ReaderPort:
        """Reads these partitions, each from its offset (or BEGINNING, END) on. Blocks, in every adapter."""
        ...


class Adapter(Cluster, Protocol):
    """A cluster by a client that blocks."""

    def consumer(self, settings: ConsumerSettings, listener: RebalanceListener) -> ConsumerPort: ...


class AsyncAdapter(Cluster, Protocol):
    """A cluster by a client of asyncio: consumers live in the event loop of whoever works their records."""

    async def async_consumer(
        self, settings: ConsumerSettings, listener: AsyncRebalanceListener
    ) -> AsyncConsumerPort: ...


class Lock(Protocol):
    def __enter__(self) -> Any: ...
    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> Any: ...


class Condition(Lock, Protocol):
    """A lock with wake-ups. `wait` releases it while it waits, at most `timeout` seconds; False: timed out."""

    def wait(self, timeout: float | None = None) -> bool: ...
    def notify(self, n: int = 1) -> None: ...
    def notify_all(self) -> None: ...


class Thread(Protocol):
    @property
    def name(self) -> str: ...
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...


class System(Protocol):
    """The machine, as drivers and the in-memory broker see it; a simulation supplies its own."""

    def now(self) -> float:
        """Seconds since the epoch, by the wall clock, which may be set back: due times are read on other machines."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, never going back: for whatever lasts or ends."""
        ...

    def condition(self) -> Condition: ...
    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        """A started daemon thread."""
        ...

    def sleep(self, seconds: float) -> None: ...
    def randint(self, low: int, high: int) -> int:
        """Both ends included."""
        ...

    def watch(self, duty: Duty) -> None:
        """Names it in the log when it stands still, until it has ended."""
        ...

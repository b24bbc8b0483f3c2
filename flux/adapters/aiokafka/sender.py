"""Chooses the partition of each record, and passes it to that partition's sender."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition as ClientPartition
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatch

from flux.adapters.aiokafka import codecs
from flux.adapters.aiokafka.client import REQUEST_TIMEOUT_MS
from flux.adapters.aiokafka.connection import Connection, described
from flux.adapters.aiokafka.errors import error_for, translated
from flux.adapters.aiokafka.partition_sender import PartitionSender
from flux.adapters.aiokafka.produce_batch import ANONYMOUS, BatchEntry, Identity, unwritten
from flux.adapters.operations import invalid_record
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerSettings, Record, System
from flux.core.producing.partitioner import partition_for_key

logger = logging.getLogger("flux.producer")

Acknowledge = Callable[[Sequence[BatchEntry], Sequence[Record], BrokerError | None], None]

_CODECS = {
    "none": 0,
    "gzip": DefaultRecordBatch.CODEC_GZIP,
    "snappy": DefaultRecordBatch.CODEC_SNAPPY,
    "lz4": DefaultRecordBatch.CODEC_LZ4,
    "zstd": DefaultRecordBatch.CODEC_ZSTD,
}
_ACKS = {"all": -1, "1": 1, "0": 0}
_NO_TRANSACTION_MS = 2**31 - 1
_RETRY = 0.1  # seconds between two attempts
_UNKNOWN = 5.0  # seconds until a new topic is known everywhere
_STICKY_BYTES = 64 * 1024  # of records without a key that go to one partition before the next is chosen


class TopicSender:
    """Records that wait until the number of partitions is known, and the partition for those without a key."""

    def __init__(self) -> None:
        self.waiting: deque[BatchEntry] = deque()
        self.lookup: asyncio.Task[None] | None = None
        self.sticky = -1
        self.sticky_bytes = 0


class Sender:
    """Used in one event loop. `acknowledge` is called once for each entry."""

    def __init__(
        self,
        client: Mapping[str, Any],
        options: Mapping[str, int],
        settings: ProducerSettings,
        acknowledge: Acknowledge,
        system: System,
    ) -> None:
        self.acks = _ACKS[settings.acks]
        self.codec = _CODECS[codecs.best() if settings.compression == "best" else settings.compression]
        self.batch_bytes = options["max_batch_size"]
        self.request_bytes = options["max_request_size"]
        self.request_timeout_ms = (
            client.get("request_timeout_ms", REQUEST_TIMEOUT_MS) * 2 // 3
        )  # the broker's limit, below ours
        self.linger = settings.linger
        self.acknowledge = acknowledge
        self.now = system.monotonic
        self._randint = system.randint
        self._connection = Connection(client)
        self._identity: Identity | None = None
        self._identifying = asyncio.Lock()
        self._topics: dict[str, TopicSender] = {}
        self._partition_senders: dict[tuple[str, int], PartitionSender] = {}

    async def client(self) -> Any:
        return await self._connection.client()

    def add(self, topic: str, entries: Sequence[BatchEntry]) -> None:
        found = self._topics.get(topic)
        if found is None:
            found = self._topics[topic] = TopicSender()
        found.waiting.extend(entries)
        if found.lookup is None:
            count = self._known(topic)
            if count:
                self._place(topic, found, count)
            else:
                found.lookup = asyncio.get_running_loop().create_task(self._look_up_or_refuse(topic, found))

    def flush(self) -> None:
        for partition_sender in self._partition_senders.values():
            partition_sender.flush()

    async def partitions(self, topic: str) -> int:
        """The number of partitions, from the cluster. Raises KafkaError or BrokerError."""
        found = (await described(await self.client(), [topic]))[topic]
        if isinstance(found, BrokerError):
            raise found
        return len(found)

    async def abandon(self, error: BrokerError) -> None:
        """Fails the records that are left with `error`, and closes the connection."""
        for name, topic in self._topics.items():
            if topic.lookup is not None:
                topic.lookup.cancel()
            self._refuse(name, topic, error)
        for partition_sender in self._partition_senders.values():
            partition_sender.abandon(error)
        await self._connection.close()

    async def identity(self, fresh: bool) -> Identity:
        """The producer id that all partition senders share, or a `fresh` one. Raises KafkaError or BrokerError."""
        async with self._identifying:
            if self._identity is not None and not fresh:
                return self._identity
            client = await self.client()
            answer = await client.send(client.get_random_node(), InitProducerIdRequest(None, _NO_TRANSACTION_MS))
            error = error_for(answer.error_code)
            if error is not None:
                raise error
            identity = Identity(answer.producer_id, answer.producer_epoch)
            assert identity != ANONYMOUS
            if not fresh:
                self._identity = identity
            return identity

    # -- placing

    def _known(self, topic: str) -> int:
        client = self._connection.connected
        return 0 if client is None else len(client.cluster.partitions_for_topic(topic) or ())

    async def _look_up_or_refuse(self, name: str, topic: TopicSender, again: bool = False) -> None:
        try:
            await self._look_up(name, topic, again)
        except Exception as error:  # a bug of ours: records without an acknowledgement would be waited for without end
            logger.exception("the partitions of topic %s could not be looked up", name)
            topic.lookup = None
            self._refuse(name, topic, translated(error, f"cannot write to topic {name}"))

    async def _look_up(self, name: str, topic: TopicSender, again: bool = False) -> None:
        """`again`: the topic is known, but a record names a partition that is not."""
        unknown_until = self.now() + _UNKNOWN
        while topic.waiting:
            deadline = topic.waiting[0].deadline
            error = BrokerError(f"cannot write to topic {name}: not delivered in time", Fault.UNAVAILABLE)
            final = False
            try:
                async with asyncio.timeout(max(deadline - self.now(), 0)):
                    client = await self.client()
                    if again or not self._known(name):
                        client.add_topic(name)
                        await client.force_metadata_update()
                        again = False
                    if name in client.cluster.unauthorized_topics:
                        raise BrokerError(
                            f"cannot write to topic {name}: refused: the login needs WRITE on topic {name}",
                            Fault.DENIED,
                        )
                    if self._known(name):
                        break
                    if self.now() >= unknown_until:
                        raise BrokerError(
                            f"cannot write to topic {name}: it does not exist: create it first", Fault.UNKNOWN_TOPIC
                        )
            except TimeoutError:
                final = True
            except Exception as failure:
                error = translated(failure, f"cannot write to topic {name}")
                final = error.fault is not Fault.UNAVAILABLE
            if final:
                # Later records have time left, but would get the same answer, unless it was a timeout.
                late = [e for e in topic.waiting if error.fault is not Fault.UNAVAILABLE or e.deadline <= self.now()]
                for _ in late:
                    topic.waiting.popleft()
                self.acknowledge(late, [unwritten(name, e.record.partition, e.record) for e in late], error)
            else:
                await asyncio.sleep(_RETRY)
        topic.lookup = None
        if topic.waiting:
            self._place(name, topic, self._known(name), current=True)

    def _place(self, name: str, topic: TopicSender, count: int, current: bool = False) -> None:
        """`current`: the number of partitions has just been looked up."""
        partition_senders, beyond = self._partition_senders, list[BatchEntry]()
        while topic.waiting:
            entry = topic.waiting.popleft()
            _, key, _, partition, _ = entry.record
            if partition is None:
                try:
                    partition = (
                        self._sticky_partition(name, topic, count, entry)
                        if key is None
                        else partition_for_key(key, count)
                    )
                except (TypeError, ValueError) as failure:
                    refused = invalid_record(name, failure)
                    self.acknowledge([entry], [unwritten(name, None, entry.record)], refused)
                    continue
            elif partition >= count and not current:
                beyond.append(entry)
                continue
            elif not 0 <= partition < count:
                error = BrokerError(f"{name} has no partition {partition}", Fault.UNKNOWN_TOPIC)
                self.acknowledge([entry], [unwritten(name, partition, entry.record)], error)
                continue
            partition_sender = partition_senders.get((name, partition))
            if partition_sender is None:
                partition_sender = partition_senders[name, partition] = PartitionSender(self, name, partition)
            partition_sender.add(entry)
        if beyond:
            topic.waiting.extend(beyond)
            topic.lookup = asyncio.get_running_loop().create_task(self._look_up_or_refuse(name, topic, again=True))

    def _sticky_partition(self, name: str, topic: TopicSender, count: int, entry: BatchEntry) -> int:
        """A random partition that has a leader, the same for a while so that batches fill."""
        if topic.sticky_bytes <= 0 or topic.sticky >= count:
            topic.sticky_bytes = _STICKY_BYTES
            topic.sticky = self._randint(0, count - 1)
            for _ in range(count):
                if self._connection.connected.cluster.leader_for_partition(ClientPartition(name, topic.sticky)) not in (
                    None,
                    -1,
                ):
                    break
                topic.sticky = (topic.sticky + 1) % count
        topic.sticky_bytes -= entry.size
        return topic.sticky

    def _refuse(self, name: str, topic: TopicSender, error: BrokerError) -> None:
        entries = list(topic.waiting)
        topic.waiting.clear()
        self.acknowledge(entries, [unwritten(name, entry.record.partition, entry.record) for entry in entries], error)

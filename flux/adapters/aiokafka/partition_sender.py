"""One partition's records on their way: in order, one batch at a time, each tried until it is there, refused, or late.

aiokafka's own sender would keep an idempotent batch for ever, count the records of a refused one as written (so that
the broker takes no later batch of that partition), and fail a batch whole for one record that is too large.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from aiokafka import TopicPartition as Theirs
from aiokafka import errors as theirs
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from flux.adapters.aiokafka.errors import error_for, fault_of, translated
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Acknowledged, Headers, ProducerRecord, Record

logger = logging.getLogger("flux.producer")

RECORD_OVERHEAD = 70
"""Bytes that a batch of one record takes besides key, value and headers (61 of header, the rest varints)."""

_RETRY = 0.1  # seconds between two attempts
_UNKNOWN = 5.0  # seconds that a new topic may take to be known everywhere
_MAGIC = 2
_START_AGAIN = (theirs.OutOfOrderSequenceNumber, theirs.UnknownProducerId, theirs.InvalidProducerEpoch)
"""The broker did not append the batch, and never will under this producer id."""


class BatchEntry(NamedTuple):
    """A record taken by `write`. `deadline` by the monotonic clock."""

    outgoing: ProducerRecord
    acknowledged: Acknowledged
    deadline: float
    size: int


class Written:
    """`flux.core.ports.Record`, as an acknowledgement names it. Offset -1: not known, or not written."""

    __slots__ = ("_offset", "_outgoing", "_partition", "_timestamp", "_topic")

    def __init__(
        self, topic: str, partition: int, offset: int, outgoing: ProducerRecord, timestamp: tuple[int, int]
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._offset = offset
        self._outgoing = outgoing
        self._timestamp = timestamp

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._outgoing.key

    def value(self) -> bytes | None:
        return self._outgoing.value

    def headers(self) -> Headers | None:
        return list(self._outgoing.headers) or None

    def timestamp(self) -> tuple[int, int]:
        return self._timestamp


class Identity(NamedTuple):
    """A producer id from the broker, by which it tells a repetition from a new batch. -1: none."""

    producer: int
    epoch: int


ANONYMOUS = Identity(-1, -1)


class Home(Protocol):
    """What a partition sender needs of the sender that it belongs to."""

    acks: int
    codec: int
    batch_bytes: int
    request_bytes: int
    request_timeout_ms: int
    linger: float

    def now(self) -> float: ...
    async def client(self) -> Any: ...
    async def identity(self, fresh: bool) -> Identity: ...
    def answer(self, entries: Sequence[BatchEntry], records: Sequence[Record], error: BrokerError | None) -> None: ...


class _Batch:
    """Records on their way together. `data`: their bytes. `sent`: whether they may have arrived."""

    def __init__(self, entries: Sequence[BatchEntry], data: bytes, stamps: Sequence[int]) -> None:
        self.entries = entries
        self.data = data
        self.stamps = stamps
        self.sent = False


class _Late(Exception):
    """No record of a batch is waited for any more."""


class PartitionSender:
    """Used in the sender's event loop."""

    def __init__(self, home: Home, topic: str, partition: int) -> None:
        self._home = home
        self._at = Theirs(topic, partition)
        self._queue: deque[BatchEntry] = deque()
        self._queued_bytes = 0
        self._flying: list[BatchEntry] = []
        self._identity: Identity | None = None
        self._sequence = 0
        self._spent = False  # whether the shared identity's numbers are no longer known for this partition
        self._doubt = False  # whether the batch in flight may have arrived
        self._worker: asyncio.Task[None] | None = None
        self._lingering: asyncio.Future[None] | None = None

    def add(self, entry: BatchEntry) -> None:
        self._queue.append(entry)
        self._queued_bytes += entry.size
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())
        elif self._queued_bytes >= self._home.batch_bytes:
            self.hurry()

    def hurry(self) -> None:
        if self._lingering is not None and not self._lingering.done():
            self._lingering.set_result(None)

    def abandon(self, error: BrokerError) -> None:
        if self._worker is not None:
            self._worker.cancel()
        entries, self._flying = [*self._flying, *self._queue], []
        self._queue.clear()
        self._refuse(entries, error)

    async def _work(self) -> None:
        try:
            if self._home.linger > 0 and self._queued_bytes < self._home.batch_bytes:
                loop = asyncio.get_running_loop()
                self._lingering = loop.create_future()
                timer = loop.call_later(self._home.linger, self.hurry)
                await self._lingering
                timer.cancel()
            while self._queue:
                self._flying = self._next_batch()
                await self._deliver(self._flying)
        except Exception as error:  # a bug: what nobody answers would stand for ever
            logger.exception("writing to topic %s failed", self._at.topic)
            entries, self._flying = [*self._flying, *self._queue], []
            self._queue.clear()
            self._queued_bytes = 0
            self._refuse(entries, translated(error, f"cannot write to topic {self._at.topic}"))
        finally:
            self._worker = None

    def _next_batch(self) -> list[BatchEntry]:
        batch = [self._queue.popleft()]
        size = batch[0].size
        while self._queue and size + self._queue[0].size <= self._home.batch_bytes:
            size += self._queue[0].size
            batch.append(self._queue.popleft())
        self._queued_bytes -= size
        return batch

    # -- one batch

    async def _deliver(self, entries: Sequence[BatchEntry]) -> None:
        """Returns when every entry is answered."""
        try:
            sent = await self._sent(await self._built(entries))
        except BrokerError as error:
            left = self._unanswered(entries)
            if error.fault is Fault.TOO_LARGE and len(left) > 1:
                # The broker refuses a batch whole: find the record that is.
                middle = len(left) // 2
                await self._deliver(left[:middle])
                await self._deliver(left[middle:])
                return
            if self._doubt:
                self._forget_identity()
            self._refuse(left, error)
            return
        except Exception as error:
            self._refuse(self._unanswered(entries), translated(error, f"cannot write to topic {self._at.topic}"))
            return
        if sent is None:
            if self._doubt:
                self._forget_identity()
            return
        batch, offset, stamp = sent
        self._doubt = False
        self._sequence += len(batch.entries)
        records = [
            Written(
                self._at.topic,
                self._at.partition,
                offset + i if offset >= 0 else -1,
                entry.outgoing,
                (1, made) if stamp < 0 else (2, stamp),
            )
            for i, (entry, made) in enumerate(zip(batch.entries, batch.stamps, strict=True))
        ]
        left = self._unanswered(batch.entries)
        if len(left) < len(records):
            waiting = set(map(id, left))
            records = [record for entry, record in zip(batch.entries, records, strict=True) if id(entry) in waiting]
        self._answer(left, records, None)

    async def _built(self, entries: Sequence[BatchEntry]) -> _Batch:
        """A record that is none for Kafka, or whose time is over, is refused on the way."""
        entries = await self._identify(entries)
        identity = self._identity or ANONYMOUS
        limit = max(self._home.request_bytes, self._home.batch_bytes)
        builder = DefaultRecordBatchBuilder(
            _MAGIC, self._home.codec, 0, identity.producer, identity.epoch, self._sequence, 2 * limit
        )
        good: list[BatchEntry] = []
        stamps: list[int] = []
        for entry in entries:
            value, key, headers, _, timestamp = entry.outgoing
            if entry.size > self._home.request_bytes:
                error = BrokerError(f"a record of {entry.size} bytes exceeds max_request_size", Fault.TOO_LARGE)
                self._refuse([entry], error)
                continue
            try:
                made = builder.append(len(good), timestamp, key, value, list(headers))
            except (TypeError, ValueError, OverflowError, AttributeError) as failure:
                refused = BrokerError(f"a record for topic {self._at.topic} is none for Kafka: {failure}")
                self._refuse([entry], refused)
            else:
                good.append(entry)
                stamps.append(made.timestamp)
        return _Batch(good, bytes(builder.build()) if good else b"", stamps)

    async def _identify(self, entries: Sequence[BatchEntry]) -> Sequence[BatchEntry]:
        """Those in time, once there is a producer id where one is needed."""
        reason: BaseException | None = None
        while entries := self._in_time(entries, reason):
            if self._home.acks != -1 or self._identity is not None:
                break
            try:
                async with asyncio.timeout(entries[0].deadline - self._home.now()):
                    self._identity = await self._home.identity(self._spent)
                    self._sequence = 0
            except TimeoutError:
                continue
            except Exception as error:
                if fault_of(error) is not Fault.UNAVAILABLE:
                    needs = "IDEMPOTENT_WRITE on the cluster, or WRITE on a topic"
                    raise translated(error, f"cannot write to topic {self._at.topic}", needs) from None
                reason = error
                await asyncio.sleep(_RETRY)
        return entries

    async def _sent(self, batch: _Batch) -> tuple[_Batch, int, int] | None:
        """What was sent in the end, the offset of its first record, and the broker's timestamp; -1 where there is none.
        None: every record was answered before. Raises BrokerError."""
        home = self._home
        unknown_until = home.now() + _UNKNOWN
        reason: BaseException | None = None
        while left := self._in_time(self._unanswered(batch.entries), reason):
            if len(left) < len(batch.entries) and not batch.sent:
                batch = await self._built(left)
                continue
            try:
                return batch, *await self._answered_in_time(batch)
            except _Late:
                break
            except _START_AGAIN:
                self._forget_identity()
                await asyncio.sleep(_RETRY)
                batch = await self._built(self._unanswered(batch.entries))
            except Exception as error:
                fault = fault_of(error)
                if fault is Fault.UNKNOWN_TOPIC and home.now() < unknown_until:
                    fault = Fault.UNAVAILABLE  # a broker may hear of a new topic later than others
                if fault is not Fault.UNAVAILABLE:
                    doing, needs = f"cannot write to topic {self._at.topic}", f"WRITE on topic {self._at.topic}"
                    raise translated(error, doing, needs) from None
                reason = error
                await asyncio.sleep(_RETRY)
        return None

    async def _answered_in_time(self, batch: _Batch) -> tuple[int, int]:
        """Sends it once, and meanwhile refuses those of its records whose time is over: they may yet arrive, with the
        others. Raises _Late when none is left."""
        asked = asyncio.ensure_future(self._asked(batch))
        try:
            while left := self._in_time(self._unanswered(batch.entries)):
                await asyncio.wait([asked], timeout=max(left[0].deadline - self._home.now(), 0))
                if asked.done():
                    return asked.result()
        finally:
            asked.cancel()
        raise _Late

    async def _asked(self, batch: _Batch) -> tuple[int, int]:
        home, (topic, partition) = self._home, self._at
        client = await home.client()
        node = client.cluster.leader_for_partition(self._at)
        if node is None or node == -1:
            await client.force_metadata_update()
            node = client.cluster.leader_for_partition(self._at)
            if node is None or node == -1:
                known = client.cluster.partitions_for_topic(topic)
                raise theirs.LeaderNotAvailableError() if known else theirs.UnknownTopicOrPartitionError()
        if not await client.ready(node):
            raise theirs.NodeNotReadyError(f"broker {node} is away")
        request = ProduceRequest(None, home.acks, home.request_timeout_ms, [(topic, [(partition, batch.data)])])
        batch.sent = True
        self._doubt = self._identity is not None
        answer = await client.send(node, request)
        if home.acks == 0:
            return -1, -1
        [(_, [(_, code, offset, *rest)])] = answer.topics
        error = error_for(code)
        if isinstance(error, theirs.DuplicateSequenceNumber):
            return -1, -1  # it is there, and nobody remembers where
        if error is not None:
            if fault_of(error) is not Fault.UNAVAILABLE:
                self._doubt = False
            client.force_metadata_update()
            raise error
        return offset, rest[0] if rest else -1

    def _forget_identity(self) -> None:
        """The next batch gets a new one: under the old one the broker might take it for the last, and drop it."""
        self._identity, self._doubt, self._spent = None, False, True

    def _in_time(self, entries: Sequence[BatchEntry], reason: BaseException | None = None) -> Sequence[BatchEntry]:
        """Refuses those whose time is over; the first one's ends first."""
        now = self._home.now()
        if not entries or entries[0].deadline > now:
            return entries
        self._refuse([entry for entry in entries if entry.deadline <= now], self._late(reason))
        return [entry for entry in entries if entry.deadline > now]

    def _unanswered(self, entries: Sequence[BatchEntry]) -> Sequence[BatchEntry]:
        if len(entries) == len(self._flying):
            return entries
        waiting = set(map(id, self._flying))
        return [entry for entry in entries if id(entry) in waiting]

    def _late(self, reason: BaseException | None = None) -> BrokerError:
        why = f" ({reason})" if reason is not None and str(reason) else ""
        return BrokerError(f"cannot write to topic {self._at.topic}: not delivered in time{why}", Fault.UNAVAILABLE)

    def _refuse(self, entries: Sequence[BatchEntry], error: BrokerError) -> None:
        topic, partition = self._at
        self._answer(entries, [unwritten(topic, partition, entry.outgoing) for entry in entries], error)

    def _answer(self, entries: Sequence[BatchEntry], records: Sequence[Record], error: BrokerError | None) -> None:
        done = set(map(id, entries))
        self._flying = [entry for entry in self._flying if id(entry) not in done]
        self._home.answer(entries, records, error)


def unwritten(topic: str, partition: int | None, outgoing: ProducerRecord) -> Written:
    stamp = (0, 0) if outgoing.timestamp is None else (1, outgoing.timestamp)
    return Written(topic, -1 if partition is None else partition, -1, outgoing, stamp)

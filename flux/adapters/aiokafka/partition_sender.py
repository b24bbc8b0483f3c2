"""Sends the records of one partition in order, one batch at a time, until each is written, refused or too late.

aiokafka's own sender would keep an idempotent batch for ever, count the records of a refused batch as written (so that
the broker refuses every later batch of that partition), and fail a whole batch for one record that is too large.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as client_errors
from aiokafka.protocol.produce import ProduceRequest

from flux.adapters.aiokafka.errors import error_for, fault_of, translated
from flux.adapters.aiokafka.produce_batch import (
    ANONYMOUS,
    BatchEntry,
    Identity,
    ProduceBatch,
    build_batch,
    unwritten,
)
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Record

logger = logging.getLogger("flux.producer")

_RETRY = 0.1  # seconds between two attempts
_UNKNOWN = 5.0  # seconds until a new topic is known everywhere
_IDENTITY_LOST = (
    client_errors.OutOfOrderSequenceNumber,
    client_errors.UnknownProducerId,
    client_errors.InvalidProducerEpoch,
)
"""The broker did not append the batch, and never will under this producer id."""


class Home(Protocol):
    """The sender, as its partition senders use it."""

    acks: int
    codec: int
    batch_bytes: int
    request_bytes: int
    request_timeout_ms: int
    linger: float

    def now(self) -> float: ...
    async def client(self) -> Any: ...
    async def identity(self, fresh: bool) -> Identity: ...
    def acknowledge(
        self, entries: Sequence[BatchEntry], records: Sequence[Record], error: BrokerError | None
    ) -> None: ...


class _Late(Exception):
    """Every record of a batch is past its deadline."""


class PartitionSender:
    """Used in the sender's event loop."""

    def __init__(self, home: Home, topic: str, partition: int) -> None:
        self._home = home
        self._at = ClientPartition(topic, partition)
        self._queue: deque[BatchEntry] = deque()
        self._queued_bytes = 0
        self._in_flight: list[BatchEntry] = []
        self._identity: Identity | None = None
        self._sequence = 0
        self._needs_own_identity = False  # the sequence numbers under the shared identity are not known any more
        self._doubt = False  # whether the batch in flight may have arrived
        self._task: asyncio.Task[None] | None = None
        self._lingering: asyncio.Future[None] | None = None

    def add(self, entry: BatchEntry) -> None:
        self._queue.append(entry)
        self._queued_bytes += entry.size
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif self._queued_bytes >= self._home.batch_bytes:
            self.flush()

    def flush(self) -> None:
        if self._lingering is not None and not self._lingering.done():
            self._lingering.set_result(None)

    def abandon(self, error: BrokerError) -> None:
        if self._task is not None:
            self._task.cancel()
        entries, self._in_flight = [*self._in_flight, *self._queue], []
        self._queue.clear()
        self._refuse(entries, error)

    async def _run(self) -> None:
        try:
            if self._home.linger > 0 and self._queued_bytes < self._home.batch_bytes:
                loop = asyncio.get_running_loop()
                self._lingering = loop.create_future()
                timer = loop.call_later(self._home.linger, self.flush)
                await self._lingering
                timer.cancel()
            while self._queue:
                self._in_flight = self._next_batch()
                await self._deliver(self._in_flight)
        except Exception as error:  # a bug of ours: records without an acknowledgement would be waited for without end
            logger.exception("writing to topic %s failed", self._at.topic)
            entries, self._in_flight = [*self._in_flight, *self._queue], []
            self._queue.clear()
            self._queued_bytes = 0
            self._refuse(entries, translated(error, f"cannot write to topic {self._at.topic}"))
        finally:
            self._task = None

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
        """Returns when every entry is acknowledged."""
        try:
            sent = await self._send_until_written(await self._build(entries))
        except BrokerError as error:
            left = self._unacknowledged(entries)
            if error.fault is Fault.TOO_LARGE and len(left) > 1:
                # The broker refuses the whole batch: find the record that is too large.
                middle = len(left) // 2
                await self._deliver(left[:middle])
                await self._deliver(left[middle:])
                return
            if self._doubt:
                self._forget_identity()
            self._refuse(left, error)
            return
        except Exception as error:
            self._refuse(self._unacknowledged(entries), translated(error, f"cannot write to topic {self._at.topic}"))
            return
        if sent is None:
            if self._doubt:
                self._forget_identity()
            return
        batch, offset, timestamp = sent
        self._doubt = False
        self._sequence += len(batch.entries)
        records = batch.written(self._at.topic, self._at.partition, offset, timestamp)
        left = self._unacknowledged(batch.entries)
        if len(left) < len(records):
            waiting = set(map(id, left))
            records = [record for entry, record in zip(batch.entries, records, strict=True) if id(entry) in waiting]
        self._acknowledge(left, records, None)

    async def _build(self, entries: Sequence[BatchEntry]) -> ProduceBatch:
        """Refuses records that Kafka cannot store, and those past their deadline."""
        entries = await self._identify(entries)
        home = self._home
        return build_batch(
            self._at.topic,
            entries,
            self._identity or ANONYMOUS,
            self._sequence,
            home.codec,
            home.batch_bytes,
            home.request_bytes,
            lambda entry, error: self._refuse([entry], error),
        )

    async def _identify(self, entries: Sequence[BatchEntry]) -> Sequence[BatchEntry]:
        """Waits for a producer id, where one is needed, and returns the entries that are in time."""
        reason: BaseException | None = None
        while entries := self._in_time(entries, reason):
            if self._home.acks != -1 or self._identity is not None:
                break
            try:
                async with asyncio.timeout(entries[0].deadline - self._home.now()):
                    self._identity = await self._home.identity(self._needs_own_identity)
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

    async def _send_until_written(self, batch: ProduceBatch) -> tuple[ProduceBatch, int, int] | None:
        """The batch that was written, the offset of its first record, and the broker's timestamp; -1: not known.
        None: no record is left, all past their deadlines. Raises BrokerError."""
        home = self._home
        unknown_until = home.now() + _UNKNOWN
        reason: BaseException | None = None
        while left := self._in_time(self._unacknowledged(batch.entries), reason):
            if len(left) < len(batch.entries) and not batch.sent:
                batch = await self._build(left)
                continue
            try:
                return batch, *await self._send_in_time(batch)
            except _Late:
                break
            except _IDENTITY_LOST:
                self._forget_identity()
                await asyncio.sleep(_RETRY)
                batch = await self._build(self._unacknowledged(batch.entries))
            except Exception as error:
                fault = fault_of(error)
                if fault is Fault.UNKNOWN_TOPIC and home.now() < unknown_until:
                    fault = Fault.UNAVAILABLE  # a broker may learn of a new topic later than others
                if fault is not Fault.UNAVAILABLE:
                    doing, needs = f"cannot write to topic {self._at.topic}", f"WRITE on topic {self._at.topic}"
                    raise translated(error, doing, needs) from None
                reason = error
                await asyncio.sleep(_RETRY)
        return None

    async def _send_in_time(self, batch: ProduceBatch) -> tuple[int, int]:
        """Sends the batch once, and meanwhile refuses records past their deadline, which may still arrive with the
        others. Raises _Late when none is left."""
        answer = asyncio.ensure_future(self._send(batch))
        try:
            while left := self._in_time(self._unacknowledged(batch.entries)):
                await asyncio.wait([answer], timeout=max(left[0].deadline - self._home.now(), 0))
                if answer.done():
                    return answer.result()
        finally:
            answer.cancel()
        raise _Late

    async def _send(self, batch: ProduceBatch) -> tuple[int, int]:
        home, (topic, partition) = self._home, self._at
        client = await home.client()
        node = client.cluster.leader_for_partition(self._at)
        if node is None or node == -1:
            await client.force_metadata_update()
            node = client.cluster.leader_for_partition(self._at)
            if node is None or node == -1:
                known = client.cluster.partitions_for_topic(topic)
                raise client_errors.LeaderNotAvailableError() if known else client_errors.UnknownTopicOrPartitionError()
        if not await client.ready(node):
            raise client_errors.NodeNotReadyError(f"broker {node} is unavailable")
        request = ProduceRequest(None, home.acks, home.request_timeout_ms, [(topic, [(partition, batch.data)])])
        batch.sent = True
        self._doubt = self._identity is not None
        answer = await client.send(node, request)
        if home.acks == 0:
            return -1, -1
        [(_, [(_, code, offset, *rest)])] = answer.topics
        error = error_for(code)
        if isinstance(error, client_errors.DuplicateSequenceNumber):
            return -1, -1  # written before; the broker does not say where
        if error is not None:
            if fault_of(error) is not Fault.UNAVAILABLE:
                self._doubt = False
            client.force_metadata_update()
            raise error
        return offset, rest[0] if rest else -1

    def _forget_identity(self) -> None:
        """The next batch gets a new one: under the old one the broker might drop it as a repetition of the last."""
        self._identity, self._doubt, self._needs_own_identity = None, False, True

    def _in_time(self, entries: Sequence[BatchEntry], reason: BaseException | None = None) -> Sequence[BatchEntry]:
        """Refuses entries past their deadline, and returns the others. Deadlines are in the order of the entries."""
        now = self._home.now()
        if not entries or entries[0].deadline > now:
            return entries
        self._refuse([entry for entry in entries if entry.deadline <= now], self._late(reason))
        return [entry for entry in entries if entry.deadline > now]

    def _unacknowledged(self, entries: Sequence[BatchEntry]) -> Sequence[BatchEntry]:
        if len(entries) == len(self._in_flight):
            return entries
        waiting = set(map(id, self._in_flight))
        return [entry for entry in entries if id(entry) in waiting]

    def _late(self, reason: BaseException | None = None) -> BrokerError:
        why = f" ({reason})" if reason is not None and str(reason) else ""
        return BrokerError(f"cannot write to topic {self._at.topic}: not delivered in time{why}", Fault.UNAVAILABLE)

    def _refuse(self, entries: Sequence[BatchEntry], error: BrokerError) -> None:
        topic, partition = self._at
        self._acknowledge(entries, [unwritten(topic, partition, entry.record) for entry in entries], error)

    def _acknowledge(self, entries: Sequence[BatchEntry], records: Sequence[Record], error: BrokerError | None) -> None:
        done = set(map(id, entries))
        self._in_flight = [entry for entry in self._in_flight if id(entry) not in done]
        self._home.acknowledge(entries, records, error)

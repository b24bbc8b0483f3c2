"""Reads partitions without a group, by aiokafka, for a caller in a thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from aiokafka import TopicPartition as ClientPartition
from aiokafka.errors import KafkaError

from flux.adapters.aiokafka import internals
from flux.adapters.aiokafka.assigned_records import AssignedRecords, FetchFailed, wait_for_records
from flux.adapters.aiokafka.client import new_consumer
from flux.adapters.aiokafka.connection import described
from flux.adapters.aiokafka.errors import translated
from flux.adapters.aiokafka.event_loop_thread import EventLoopThread
from flux.adapters.aiokafka.log import ClientLog
from flux.core.errors import BrokerError, Fault
from flux.core.ports import PollResult, TopicPartition

Result = TypeVar("Result")

_RETRY = 0.5  # seconds between two attempts to connect
_GRACE = 5.0


class AiokafkaReader:
    """`flux.core.ports.ReaderPort`. Connects in its first `poll`. Runs in the loop of `loop_thread`."""

    def __init__(
        self,
        loop_thread: EventLoopThread,
        client: Mapping[str, Any],
        options: Mapping[str, Any],
        starts: Mapping[TopicPartition, int],
        log: ClientLog,
    ) -> None:
        self._loop_thread = loop_thread
        self._client_options = client
        self._options = options
        self._starts = dict(starts)
        self._log = log
        self._consumer: Any = None  # once connected
        self._records: AssignedRecords | None = None
        self._reported: dict[TopicPartition, int] = {}
        self._failure: BrokerError | None = None
        self._closed = False

    def poll(self, max_records: int, timeout: float) -> PollResult:
        return self._run(lambda: self._poll(max_records, timeout), timeout + _GRACE)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self._starts:
            raise BrokerError(f"cannot seek {partition}: it is not read")

        async def seek() -> None:
            self._starts[partition] = offset
            self._reported.pop(partition, None)
            if self._records is not None:
                await self._records.seek(partition, offset)

        self._run(seek, 2 * _GRACE)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(TimeoutError):
                self._loop_thread.run(self._stop, 2 * _GRACE)

    def _run(self, request: Callable[[], Coroutine[Any, Any, Result]], timeout: float) -> Result:
        if self._closed:
            raise BrokerError("the reader is closed", Fault.FATAL)
        if self._failure is not None:
            raise self._failure
        try:
            return self._loop_thread.run(request, timeout)
        except (KafkaError, TimeoutError) as error:
            raise self._translated(error) from None

    # -- in the loop

    async def _poll(self, max_records: int, timeout: float) -> PollResult:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while self._records is None:
            if not await self._connect():
                left = deadline - loop.time()
                await asyncio.sleep(max(0.0, min(left, _RETRY)))
                if left <= _RETRY:
                    return PollResult()
        while True:
            polled = await self._read(max_records)
            if not polled.batches:
                polled.reached = self._ends()
            left = deadline - loop.time()
            if polled != PollResult() or left <= 0:
                return polled
            # A limit of its own, since an empty answer, by which an end is reached, ends no wait.
            await wait_for_records(self._consumer, min(left, 0.05))

    async def _read(self, max_records: int) -> PollResult:
        assert self._records is not None
        try:
            return await self._records.read(max_records)
        except FetchFailed as failed:
            self._failure = self._translated(failed.error)
            raise self._failure from None

    def _ends(self) -> dict[TopicPartition, int]:
        """Partitions that are read to their end, each end reported once."""
        assert self._records is not None
        committed_only = self._options.get("isolation_level") == "read_committed"
        assignment = internals.assignment_of(self._consumer)
        ends = {}
        for at, offset in self._records.reached().items():
            state = assignment.state_value(ClientPartition(*at))
            end = state.lso if committed_only else state.highwater
            if end is not None and offset >= end and self._reported.get(at) != offset:
                ends[at] = self._reported[at] = offset
        return ends

    async def _connect(self) -> bool:
        """Whether it has connected. Raises BrokerError when another attempt is pointless."""
        consumer = new_consumer(self._client_options, self._options)
        failure: BrokerError
        try:
            try:
                await consumer.start()
                await self._check_topics(internals.client_of(consumer))
            except BrokerError as error:
                failure = error
            except KafkaError as error:
                failure = self._translated(error)
            else:
                await self._begin(consumer)
                return True
        except BaseException:
            await self._stop_consumer(consumer)
            raise
        await self._stop_consumer(consumer)
        failure = self._log.judged(failure)
        if failure.fault is not Fault.UNAVAILABLE:
            self._failure = failure
            raise failure
        self._log.warn("connect", f"{failure}: trying again")
        return False

    async def _check_topics(self, client: Any) -> None:
        found = await described(client, {at.topic for at in self._starts})
        for at in self._starts:
            topic = found[at.topic]
            if isinstance(topic, BrokerError):
                raise BrokerError(f"cannot read topic {at.topic}: {topic}", topic.fault)
            if all(at.partition != number for number, *_ in topic):
                raise BrokerError(f"there is no {at}", Fault.UNKNOWN_TOPIC)

    async def _begin(self, consumer: Any) -> None:
        records = AssignedRecords(consumer, self._options, self._log)
        consumer.assign([ClientPartition(*at) for at in self._starts])

        async def find_starts(_: list[TopicPartition]) -> Mapping[TopicPartition, int]:
            return self._starts

        await records.begin(list(self._starts), find_starts)
        self._consumer, self._records = consumer, records

    async def _stop_consumer(self, consumer: Any) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(consumer.stop(), _GRACE)

    async def _stop(self) -> None:
        consumer, self._consumer, self._records = self._consumer, None, None
        if consumer is not None:
            await self._stop_consumer(consumer)

    def _translated(self, error: BaseException) -> BrokerError:
        topics = "topic " + ", ".join(sorted({at.topic for at in self._starts}))
        return self._log.judged(translated(error, f"cannot read {topics}", f"READ on {topics}"))

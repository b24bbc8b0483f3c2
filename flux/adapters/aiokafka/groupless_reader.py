"""Partitions read without a group, by aiokafka, for a caller in a thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from aiokafka import TopicPartition as Theirs
from aiokafka.errors import KafkaError

from flux.adapters.aiokafka.client import new_consumer
from flux.adapters.aiokafka.connection import described
from flux.adapters.aiokafka.errors import translated
from flux.adapters.aiokafka.event_loop_thread import EventLoopThread
from flux.adapters.aiokafka.log import ClientLog
from flux.adapters.aiokafka.reader import FetchFailed, Reader, wait_for_records
from flux.core.errors import BrokerError, Fault
from flux.core.ports import PollResult, TopicPartition

Result = TypeVar("Result")

_RETRY = 0.5  # seconds between two attempts to connect
_LEAVE = 5.0


class AiokafkaReader:
    """`flux.core.ports.ReaderPort`. Connects in its first `poll`. All of it runs in the machine's loop."""

    def __init__(
        self,
        machine: EventLoopThread,
        client: Mapping[str, Any],
        options: Mapping[str, Any],
        starts: Mapping[TopicPartition, int],
        log: ClientLog,
    ) -> None:
        self._machine = machine
        self._client_options = client
        self._options = options
        self._starts = dict(starts)
        self._log = log
        self._consumer: Any = None  # once connected
        self._reader: Reader | None = None
        self._told: dict[TopicPartition, int] = {}
        self._failure: BrokerError | None = None
        self._closed = False

    def poll(self, max_records: int, timeout: float) -> PollResult:
        return self._run(lambda: self._poll(max_records, timeout), timeout + _LEAVE)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self._starts:
            raise BrokerError(f"cannot seek {partition}: it is not read")

        async def seek() -> None:
            self._starts[partition] = offset
            self._told.pop(partition, None)
            if self._reader is not None:
                await self._reader.seek(partition, offset)

        self._run(seek, 2 * _LEAVE)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(TimeoutError):
                self._machine.run(self._stop, 2 * _LEAVE)

    def _run(self, ask: Callable[[], Coroutine[Any, Any, Result]], timeout: float) -> Result:
        if self._closed:
            raise BrokerError("the reader is closed", Fault.FATAL)
        if self._failure is not None:
            raise self._failure
        try:
            return self._machine.run(ask, timeout)
        except (KafkaError, TimeoutError) as error:
            raise self._translated(error) from None

    # -- in the loop

    async def _poll(self, max_records: int, timeout: float) -> PollResult:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while self._reader is None:
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
            # Looks again after a while: an empty answer, which tells that an end is reached, wakes nobody.
            await wait_for_records(self._consumer, min(left, 0.05))

    async def _read(self, max_records: int) -> PollResult:
        assert self._reader is not None
        try:
            return await self._reader.read(max_records)
        except FetchFailed as failed:
            self._failure = self._translated(failed.error)
            raise self._failure from None

    def _ends(self) -> dict[TopicPartition, int]:
        """Of the partitions that are read to their end, those whose end was not told yet."""
        assert self._reader is not None
        committed_only = self._options.get("isolation_level") == "read_committed"
        assignment = self._consumer._subscription.subscription.assignment
        found = {}
        for at, position in self._reader.reached().items():
            state = assignment.state_value(Theirs(*at))
            end = state.lso if committed_only else state.highwater
            if end is not None and position >= end and self._told.get(at) != position:
                found[at] = self._told[at] = position
        return found

    async def _connect(self) -> bool:
        """Whether it has. Raises BrokerError when trying on is of no use."""
        consumer = new_consumer(self._client_options, self._options)
        failure: BrokerError
        try:
            try:
                await consumer.start()
                await self._check_topics(consumer._client)
            except BrokerError as error:
                failure = error
            except KafkaError as error:
                failure = self._translated(error)
            else:
                await self._begin(consumer)
                return True
        except BaseException:
            await self._dispose(consumer)
            raise
        await self._dispose(consumer)
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
        reader = Reader(consumer, self._options, self._log)
        consumer.assign([Theirs(*at) for at in self._starts])

        async def where(_: list[TopicPartition]) -> Mapping[TopicPartition, int]:
            return self._starts

        await reader.begin(list(self._starts), where)
        self._consumer, self._reader = consumer, reader

    async def _dispose(self, consumer: Any) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(consumer.stop(), _LEAVE)

    async def _stop(self) -> None:
        consumer, self._consumer, self._reader = self._consumer, None, None
        if consumer is not None:
            await self._dispose(consumer)

    def _translated(self, error: BaseException) -> BrokerError:
        topics = "topic " + ", ".join(sorted({at.topic for at in self._starts}))
        return self._log.judged(translated(error, f"cannot read {topics}", f"READ on {topics}"))

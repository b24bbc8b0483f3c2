"""A member of a consumer group by aiokafka.

aiokafka joins, rebalances and fetches in background tasks. A rebalance starts to fetch the new assignment before the
listener has returned where it starts, and a `getmany` that is cancelled or raises counts as a poll that never ends, so
the member would outlive max_poll_interval_ms. So records are taken from its fetcher directly.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from aiokafka.errors import GroupAuthorizationFailedError, KafkaError

from flux.adapters.aiokafka import internals, membership
from flux.adapters.aiokafka.assigned_records import AssignedRecords, FetchFailed, wait_for_records
from flux.adapters.aiokafka.client import REQUEST_TIMEOUT_MS, new_consumer
from flux.adapters.aiokafka.commits import Commits, Done
from flux.adapters.aiokafka.connection import described
from flux.adapters.aiokafka.errors import translated
from flux.adapters.aiokafka.log import ClientLog
from flux.adapters.aiokafka.membership import Membership
from flux.adapters.aiokafka.session import Session
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    AsyncRebalanceListener,
    CommittedOffset,
    ConsumerSettings,
    PollResult,
    TopicPartition,
)

_RETRY = 0.5  # seconds between two attempts to connect, doubled with each
_LONGEST_RETRY = 2.0
_LONGEST_WAIT = 0.25  # seconds: the end of a rebalance ends no wait for records
_CLOSING = 2.5  # seconds to leave the group
_CANCELLED = 0.5
_SESSION_MS = 10_000  # aiokafka's default


class AiokafkaConsumer:
    """`flux.core.ports.AsyncConsumerPort`. The listener runs in aiokafka's own task, also while a `poll` waits."""

    def __init__(
        self,
        client: Mapping[str, Any],
        options: Mapping[str, Any],
        settings: ConsumerSettings,
        listener: AsyncRebalanceListener,
        log: ClientLog,
    ) -> None:
        self.max_poll_interval = options["max_poll_interval_ms"] / 1000
        self._settings = settings
        self._client_options = client
        self._options = options
        self._log = log
        self._membership = Membership(self, listener)
        self._consumer: Any = None  # once connected
        self._connecting: asyncio.Task[None] | None = None
        self._records: AssignedRecords | None = None
        self._commits = Commits(settings.group, lambda: self.is_member, self._translated, self.fail)
        self._session = Session(
            settings.group,
            options.get("session_timeout_ms", _SESSION_MS) / 1000,
            client.get("request_timeout_ms", REQUEST_TIMEOUT_MS) / 1000,
            options.get("group_instance_id"),
            self._session_over,
            self.fail,
        )
        self._losing: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._closed = False

    # -- records

    async def poll(self, max_records: int, timeout: float) -> PollResult:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        self._check_usable()
        if self._consumer is None and not await self._wait_connected(timeout):
            return PollResult()
        with internals.counted_as_polling(self._consumer):
            while True:
                self._check_usable()
                polled = await self._read(max_records)
                left = deadline - loop.time()
                if polled.batches or polled.out_of_range or left <= 0:
                    if not polled.batches and self._records is not None:
                        polled.reached = self._records.reached()
                    return polled
                await wait_for_records(self._consumer, min(left, _LONGEST_WAIT))

    async def _read(self, max_records: int) -> PollResult:
        assert self._records is not None
        try:
            return await self._records.read(max_records)
        except FetchFailed as failed:
            error = self._translated(failed.error)
            if error.fault is not Fault.DENIED:
                self._failure = error  # aiokafka has skipped a record that it calls too large
            raise error from None

    # -- pausing and seeking

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        if self._records is not None:
            self._records.pause(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        if self._records is not None:
            self._records.resume(partitions)

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        if self._records is None:
            raise BrokerError(f"cannot seek {partition}: it is not assigned")
        await self._records.seek(partition, offset)

    async def begin(
        self,
        partitions: list[TopicPartition],
        find_starts: Callable[[list[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]],
    ) -> None:
        assert self._records is not None
        await self._records.begin(partitions, find_starts)

    def end(self) -> None:
        assert self._records is not None
        self._records.end()

    @property
    def is_member(self) -> bool:
        """False as soon as the group may have assigned this member's partitions to others."""
        if self._consumer is None or self._session.over:
            return False
        return bool(internals.coordinator_of(self._consumer).generation >= 0)

    def _session_over(self) -> None:
        if self._consumer is None or self._records is None or self._closed:
            return
        self._log.warn("session", f"group {self._settings.group} does not answer: this member's partitions may be lost")
        self._records.hold()
        # With its old member id: where the group still knows that, no other member has to wait.
        internals.coordinator_of(self._consumer).request_rejoin()
        self._losing = asyncio.get_running_loop().create_task(self._membership.lose())

    def fail(self, error: BaseException) -> None:
        """Every later poll raises the first such error."""
        self._failure = error if self._failure is None else self._failure

    # -- committed offsets

    async def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset | None]:
        doing = "cannot read the group's committed offsets"
        self._check_open()
        try:
            async with asyncio.timeout(timeout):
                while self._consumer is None:
                    await self._wait_connected(_RETRY)
                return await self._commits.committed(internals.coordinator_of(self._consumer), partitions)
        except (KafkaError, TimeoutError) as error:
            raise self._translated(error, doing) from None

    def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], done: Done) -> None:
        limit = 2 * self._client_options.get("request_timeout_ms", REQUEST_TIMEOUT_MS) / 1000
        self._commits.start(partial(self.commit_now, dict(offsets), limit), done)

    async def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        self._check_open()
        if offsets:
            coordinator = None if self._consumer is None else internals.coordinator_of(self._consumer)
            await self._commits.commit(coordinator, offsets, timeout)

    # -- connecting and closing

    async def _wait_connected(self, timeout: float) -> bool:
        """Whether it connects within `timeout` seconds. Raises BrokerError when another attempt is pointless."""
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        task = self._connecting
        await asyncio.wait([task], timeout=max(timeout, 0))
        if not task.done():
            return False
        if self._connecting is task:
            self._connecting = None
        task.result()
        return True

    async def _connect(self) -> None:
        consumer = new_consumer(self._client_options, self._options, self._session)
        pause = _RETRY
        try:
            while True:
                try:
                    if not internals.is_started(consumer):
                        await consumer.start()
                    await self._subscribe(consumer)
                    break
                except BrokerError as error:
                    failure = error
                except KafkaError as error:
                    failure = translated(error, f"cannot consume topic {self._settings.topic}")
                failure = self._log.judged(failure)
                if failure.fault is not Fault.UNAVAILABLE:
                    raise failure
                if not self._log.authentication.troubled:  # that is logged already
                    self._log.warn("connect", f"{failure}: trying again")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_RETRY)
        except BaseException:
            with contextlib.suppress(Exception):
                await consumer.stop()
            raise

    async def _subscribe(self, consumer: Any) -> None:
        topic = self._settings.topic
        client = internals.client_of(consumer)
        found = (await described(client, [topic]))[topic]
        if isinstance(found, BrokerError):
            if found.fault is Fault.DENIED:
                raise self._denied(f"topic {topic}")
            raise BrokerError(f"cannot consume topic {topic}: {found}", found.fault)
        client.set_topics([topic])
        updated = await client.force_metadata_update()
        if not client.cluster.partitions_for_topic(topic):
            # Another broker does not know it yet: the group would get none of its partitions.
            text = f"cannot consume topic {topic}: it is not known everywhere yet"
            raise BrokerError(text, Fault.UNKNOWN_TOPIC if updated else Fault.UNAVAILABLE)
        self._consumer, self._records = consumer, AssignedRecords(consumer, self._options, self._log)
        consumer.subscribe([topic], listener=self._membership)

    async def close(self) -> None:
        if self._closed:
            return
        closing = asyncio.ensure_future(self._close())
        await asyncio.wait([closing], timeout=_CLOSING)
        if closing.done():
            closing.result()
            return
        self._closed = True
        closing.cancel()
        await asyncio.wait([closing], timeout=_CANCELLED)
        if closing.done() and not closing.cancelled():
            closing.exception()  # retrieved, so that asyncio does not log it: the stop goes on
        self._log.warn("close", f"leaving {self._settings.group} takes too long: its session will time out")

    async def _close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        try:
            if self._consumer is not None:
                await self._membership.leave()
        finally:
            self._closed = True
            self._session.end()
            await self._commits.close(membership.STEP)
            if self._consumer is not None and (error := await membership.stop(self._consumer)) is not None:
                self._log.warn("close", f"closing failed: {error}")
        if self._failure is not None and not isinstance(self._failure, BrokerError):
            raise self._failure

    # -- errors

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerError("the consumer is closed", Fault.FATAL)

    def _check_usable(self) -> None:
        self._check_open()
        if self._failure is not None:
            raise self._failure
        if self._consumer is None:
            return
        try:
            internals.coordinator_of(self._consumer).check_errors()
        except KafkaError as error:
            translation = self._translated(error)
            if translation.fault is Fault.UNAVAILABLE:
                self._log.warn(type(error), str(translation))
                return
            raise translation from None

    def _translated(self, error: BaseException, doing: str = "") -> BrokerError:
        topic, group = self._settings.topic, self._settings.group
        needs = (
            f"READ on group {group}" if isinstance(error, GroupAuthorizationFailedError) else f"READ on topic {topic}"
        )
        return self._log.judged(translated(error, doing or f"cannot consume topic {topic} in group {group}", needs))

    def _denied(self, what: str) -> BrokerError:
        topic, group = self._settings.topic, self._settings.group
        return BrokerError(
            f"cannot consume topic {topic} in group {group}: refused: the login needs READ on {what}", Fault.DENIED
        )

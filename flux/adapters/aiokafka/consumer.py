"""A member of a consumer group by aiokafka.

aiokafka joins, rebalances and fetches in background tasks. Three of its habits shape this file: a rebalance opens the
new assignment before the listener has said where it starts; a `getmany` that is cancelled or raises counts as a poll
that never ends, so that the member would outlive max_poll_interval_ms; and a commit that the broker refuses is tried
again without an end. So records are taken from its fetcher, and commits given to its coordinator, directly.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition as Theirs
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
)
from aiokafka.structs import OffsetAndMetadata

from flux.adapters.aiokafka import leaving
from flux.adapters.aiokafka.client import REQUEST_TIMEOUT_MS, new_consumer
from flux.adapters.aiokafka.committed_metadata import ended, unended
from flux.adapters.aiokafka.connection import described
from flux.adapters.aiokafka.errors import fault_of, translated
from flux.adapters.aiokafka.log import ClientLog
from flux.adapters.aiokafka.membership import Membership
from flux.adapters.aiokafka.reader import FetchFailed, Reader, wait_for_records
from flux.adapters.aiokafka.session import Session
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    AsyncRebalanceListener,
    CommittedOffset,
    ConsumerSettings,
    PollResult,
    TopicPartition,
)

Done = Callable[[BrokerError | None], None]

_RETRY = 0.5  # seconds between two attempts to connect, doubled with each
_LONGEST_RETRY = 2.0
_COMMIT_RETRY = 0.1  # seconds between two attempts to commit
_CLOSING = 2.5  # seconds to leave the group
_CANCELLED = 0.5
_SESSION_MS = 10_000  # aiokafka's default


class AiokafkaConsumer:
    """`flux.core.ports.AsyncConsumerPort`. The listener runs in aiokafka's own task, beside a `poll` that waits."""

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
        self._reader: Reader | None = None
        self._commits: set[asyncio.Task[None]] = set()
        self._committing = asyncio.Lock()
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
        if self._consumer is None and not await self._connected(timeout):
            return PollResult()
        with self._counted_as_polling():
            while True:
                self._check_usable()
                polled = await self._read(max_records)
                left = deadline - loop.time()
                if polled.batches or polled.out_of_range or left <= 0:
                    if not polled.batches and self._reader is not None:
                        polled.reached = self._reader.reached()
                    return polled
                # Looks again after a while: the end of a rebalance wakes nobody.
                await wait_for_records(self._consumer, min(left, 0.1))

    async def _read(self, max_records: int) -> PollResult:
        assert self._reader is not None
        try:
            return await self._reader.read(max_records)
        except FetchFailed as failed:
            error = self._translated(failed.error)
            if error.fault is not Fault.DENIED:
                self._failure = error  # aiokafka has moved past a record that it calls too large
            raise error from None

    @contextlib.contextmanager
    def _counted_as_polling(self) -> Iterator[None]:
        subscription = self._consumer._subscription
        context = subscription.fetch_context()
        context.__enter__()
        try:
            yield
        finally:
            context.__exit__(None, None, None)

    # -- flow

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        if self._reader is not None:
            self._reader.pause(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        if self._reader is not None:
            self._reader.resume(partitions)

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        if self._reader is None:
            raise BrokerError(f"cannot seek {partition}: it is not assigned")
        await self._reader.seek(partition, offset)

    async def begin(
        self,
        partitions: list[TopicPartition],
        where: Callable[[list[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]],
    ) -> None:
        assert self._reader is not None
        await self._reader.begin(partitions, where)

    def end(self) -> None:
        assert self._reader is not None
        self._reader.end()

    @property
    def is_member(self) -> bool:
        """False from the moment at which the group, as this member knows, may have given its partitions away."""
        return self._consumer is not None and self._consumer._coordinator.generation >= 0 and not self._session.over

    def _session_over(self) -> None:
        if self._consumer is None or self._reader is None or self._closed:
            return
        self._log.warn("session", f"group {self._settings.group} is silent: this member's partitions may be another's")
        self._reader.hold()
        self._consumer._coordinator.request_rejoin()  # as who it was: where the group knows it still, nobody waits
        self._losing = asyncio.get_running_loop().create_task(self._membership.lose())

    def fail(self, error: BaseException) -> None:
        """Every later poll raises it."""
        self._failure = error if self._failure is None else self._failure

    # -- positions

    async def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset | None]:
        doing = "cannot read the group's committed offsets"
        self._check_open()
        try:
            async with asyncio.timeout(timeout):
                await self._wait_connected(doing)
                theirs = [Theirs(*at) for at in partitions]
                found = await self._consumer._coordinator.fetch_committed_offsets(theirs)
        except (KafkaError, TimeoutError) as error:
            raise self._translated(error, doing) from None
        return {
            at: CommittedOffset(found[at].offset, unended(found[at].metadata)) if at in found else None
            for at in partitions
        }

    def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], done: Done) -> None:
        limit = 2 * self._client_options.get("request_timeout_ms", REQUEST_TIMEOUT_MS) / 1000
        task = asyncio.get_running_loop().create_task(self._commit_and_tell(dict(offsets), limit, done))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)

    async def _commit_and_tell(self, offsets: dict[TopicPartition, CommittedOffset], limit: float, done: Done) -> None:
        error: BrokerError | None = None
        try:
            await self.commit_now(offsets, limit)
        except BrokerError as failure:
            error = failure
        except asyncio.CancelledError:
            error = BrokerError("the consumer closed before the commit was answered", Fault.UNAVAILABLE)
        except Exception as failure:
            error = translated(failure, "cannot commit")
        try:
            done(error)
        except BaseException as failure:
            self.fail(failure)

    async def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        self._check_open()
        if not offsets:
            return
        try:
            async with asyncio.timeout(timeout), self._committing:
                await self._commit(offsets)
        except (KafkaError, TimeoutError) as error:
            raise self._translated(error, "cannot commit") from None

    async def _commit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        try:
            for position in offsets.values():
                position.metadata.encode()
        except UnicodeEncodeError as error:
            raise BrokerError(f"cannot commit: the metadata is no text for Kafka ({error})", Fault.METADATA) from None
        offsets = {Theirs(*at): OffsetAndMetadata(p.offset, ended(p.metadata)) for at, p in offsets.items()}
        while True:
            if not self.is_member:
                # Sent without a membership it would be taken from an empty group, as an operator's commit is.
                raise BrokerError(f"cannot commit: no member of {self._settings.group} (any more)", Fault.FENCED)
            coordinator = self._consumer._coordinator
            await coordinator.ensure_coordinator_known()
            try:
                async with coordinator._commit_lock:
                    if self.is_member:
                        # Goes on when nobody waits any more: half a commit is none.
                        task = asyncio.ensure_future(coordinator._do_commit_offsets(None, offsets))
                        task.add_done_callback(lambda done: done.cancelled() or done.exception())
                        await asyncio.shield(task)
                        return
            except KafkaError as error:
                if fault_of(error) is not Fault.UNAVAILABLE:
                    raise
                await asyncio.sleep(_COMMIT_RETRY)

    # -- life

    async def _wait_connected(self, doing: str) -> None:
        while self._consumer is None:
            await self._connected(_RETRY)

    async def _connected(self, timeout: float) -> bool:
        """Waits until connected, at most `timeout` seconds. Raises BrokerError when trying on is of no use."""
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
                    if consumer._fetcher is None:
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
                if not self._log.authentication.troubled:  # that is told already
                    self._log.warn("connect", f"{failure}: trying again")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_RETRY)
        except BaseException:
            with contextlib.suppress(Exception):
                await consumer.stop()
            raise

    async def _subscribe(self, consumer: Any) -> None:
        topic = self._settings.topic
        found = (await described(consumer._client, [topic]))[topic]
        if isinstance(found, BrokerError):
            if found.fault is Fault.DENIED:
                raise self._denied(f"topic {topic}")
            raise BrokerError(f"cannot consume topic {topic}: {found}", found.fault)
        consumer._client.set_topics([topic])
        told = await consumer._client.force_metadata_update()
        if not consumer._client.cluster.partitions_for_topic(topic):
            # another broker has not heard of it: the group would be given none of its partitions
            text = f"cannot consume topic {topic}: it is not known everywhere yet"
            raise BrokerError(text, Fault.UNKNOWN_TOPIC if told else Fault.UNAVAILABLE)
        self._consumer, self._reader = consumer, Reader(consumer, self._options, self._log)
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
            closing.exception()  # it has been told: the stop goes on
        text = f"leaving {self._settings.group} takes too long: its session will time out"
        self._log.warn("close", text)

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
            if self._commits:
                await asyncio.wait(list(self._commits), timeout=leaving.STEP)
            for task in self._commits:
                task.cancel()
            if self._consumer is not None and (error := await leaving.stop(self._consumer)) is not None:
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
            self._consumer._coordinator.check_errors()
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

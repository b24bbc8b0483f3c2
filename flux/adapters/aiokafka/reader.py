"""What a member reads of its partitions: where from, what not, and what cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition as Theirs
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import (
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)
from aiokafka.protocol.fetch import FetchRequest

from flux.adapters.aiokafka import codecs
from flux.adapters.aiokafka.errors import error_for
from flux.adapters.aiokafka.log import ClientLog
from flux.adapters.aiokafka.records import Fetched, Unreadable, read_patiently
from flux.core.errors import BrokerError, ConfigurationError
from flux.core.ports import BEGINNING, Batch, PollResult, TopicPartition

_LOOK_UP = 5.0  # seconds that finding the beginning or the end may hold a rebalance or a seek
_PATIENCE_BYTES = 1024 * 1024


class FetchFailed(Exception):
    """aiokafka's fetcher reported `error` for a partition."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


async def wait_for_records(consumer: Any, timeout: float) -> None:
    """Until a fetch is answered, at most `timeout` seconds."""
    waiter = consumer._fetcher._create_fetch_waiter()
    try:
        await asyncio.wait([waiter], timeout=timeout)
    finally:
        if waiter.done() and not waiter.cancelled():
            waiter.exception()  # comes again in what is read, or from check_errors
        waiter.cancel()


class Reader:
    """Takes records from the fetcher of `consumer`, aiokafka's, in its event loop."""

    def __init__(self, consumer: Any, options: Mapping[str, Any], log: ClientLog) -> None:
        self._consumer = consumer
        self._options = options
        self._log = log
        self._fetched: dict[TopicPartition, Fetched] = {}
        self._unreadable: dict[TopicPartition, Unreadable] = {}
        self._paused: set[TopicPartition] = set()
        self._held: set[TopicPartition] = set()  # until `seek`, or until the listener has said where they start

    async def read(self, max_records: int) -> PollResult:
        """What is there. Cancelled, it has taken nothing. Raises FetchFailed, and BrokerError for what is broken."""
        polled = PollResult()
        if not self._consumer._subscription.reassignment_in_progress:
            self._take(max_records, polled)
            if not (polled.batches or polled.out_of_range) and self._unreadable:
                await self._read_unreadable(max_records, polled)
        return polled

    def reached(self) -> dict[TopicPartition, int]:
        """The offset after what was taken, of each partition that has one."""
        subscription = self._consumer._subscription
        if subscription.reassignment_in_progress:
            return {}
        assignment = subscription.subscription.assignment
        states = {TopicPartition(*at): assignment.state_value(at) for at in assignment.tps}
        return {at: state.position for at, state in states.items() if state.has_valid_position and at not in self._held}

    def _take(self, max_records: int, polled: PollResult) -> None:
        """No await in here: what is taken is handed over, or was never taken."""
        fetcher = self._consumer._fetcher
        for at in list(fetcher._records):
            if at in self._paused or at in self._held or at in self._unreadable:
                continue
            result = fetcher._records[at]
            if type(result) is not FetchResult:
                if polled.batches or polled.out_of_range:
                    continue  # an error now would take them with it
                self._drop(at)
                self._on_fetch_error(TopicPartition(*at), result._error, polled)
                continue
            state = result._assignment.state_value(at) if result._assignment.active else None
            if state is None:
                self._drop(at)
                continue
            fetched = self._fetched.get(at)
            if fetched is None or fetched.result is not result:
                name = TopicPartition(*at)
                fetched = self._fetched[name] = Fetched(result, name)
            try:
                records = fetched.take(max_records)
            except Unreadable as error:
                state.consumed_to(error.offset)
                self._unreadable[TopicPartition(*at)] = error
                continue
            state.consumed_to(fetched.position)
            if fetched.exhausted:
                self._drop(at)
            if records:
                polled.batches.append(Batch(records[0][1], records))
                max_records -= len(records)
                if max_records <= 0:
                    # Whose turn was last comes last, or one partition could starve the others.
                    if at in fetcher._records:
                        fetcher._records.move_to_end(at)
                    return

    def _drop(self, at: Any) -> None:
        fetcher = self._consumer._fetcher
        self._fetched.pop(at, None)
        fetcher._records.pop(at, None)
        fetcher._notify(fetcher._wait_consume_future)

    def _on_fetch_error(self, at: TopicPartition, error: Exception, polled: PollResult) -> None:
        if not isinstance(error, OffsetOutOfRangeError | NoOffsetForPartitionError):
            raise FetchFailed(error)
        self._held.add(at)
        self._apply(at)
        polled.out_of_range.append(at)

    async def _read_unreadable(self, max_records: int, polled: PollResult) -> None:
        """Asks for the batch again, for its bytes. A record with a name that is not UTF-8 is handed over like any
        other. What is broken otherwise cannot be passed over, so `poll` raises for it from now on."""
        at, error = next(iter(self._unreadable.items()))
        client, options = self._consumer._client, self._options
        assignment = self._consumer._subscription.subscription.assignment
        state = assignment.state_value(at) if assignment is not None else None
        node = client.cluster.leader_for_partition(at)
        if state is None or state.position != error.offset:
            self._forget_unreadable(at)
            return
        if node is None or node == -1:
            client.force_metadata_update()
            return
        size = max(_PATIENCE_BYTES, options["max_partition_fetch_bytes"])
        committed_only = int(options.get("isolation_level") == "read_committed")
        topics = [(at.topic, [(at.partition, error.offset, size)])]
        try:
            answer = await client.send(
                node, FetchRequest(options["fetch_max_wait_ms"], 1, size, committed_only, topics)
            )
        except KafkaError as failure:
            self._log.warn(type(failure), f"cannot fetch {at} again: {failure}")
            return
        # Whatever happened meanwhile: a rebalance, a seek, a pause.
        if at not in self._unreadable or not assignment.active or state.position != error.offset:
            self._forget_unreadable(at)
            return
        if at in self._paused or at in self._held:
            return
        _, code, _, *rest = answer.topics[0][1][0]
        if error_for(code) is not None:
            return
        try:
            data = bytes(rest[-1])
            records, following = read_patiently(data, error.offset, at)
        except UnsupportedCodecError:
            self._forget_unreadable(at)
            codec = codecs.codec_of(data)
            raise ConfigurationError(
                f"aiokafka lacks the library for records of {at} that are compressed with {codec}:"
                f" {codecs.remedy(str(codec))}"
            ) from None
        except KafkaError as failure:
            self._forget_unreadable(at)
            raise BrokerError(f"{failure} (first: {error})") from failure
        kept = records[:max_records]
        state.consumed_to(following if len(kept) == len(records) else records[max_records].offset())
        self._forget_unreadable(at)
        if kept:
            polled.batches.append(Batch(at, kept))

    def _forget_unreadable(self, at: TopicPartition) -> None:
        self._unreadable.pop(at, None)
        self._drop(at)

    # -- flow

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        for at in partitions:
            if self._is_assigned(at):
                self._paused.add(at)
                self._apply(at)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        for at in partitions:
            self._paused.discard(at)
            self._apply(at)

    def _apply(self, at: TopicPartition) -> None:
        """Tells aiokafka whether to fetch."""
        if not self._is_assigned(at):
            return
        subscription = self._consumer._subscription
        if at in self._paused or at in self._held:
            subscription.pause(at)
        else:
            subscription.resume(at)

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        if not self._is_assigned(partition):
            raise BrokerError(f"cannot seek {partition}: it is not assigned")
        await self._move({partition: offset})
        self._held.discard(partition)
        self._apply(partition)

    async def _move(self, starts: Mapping[TopicPartition, int]) -> None:
        ends = [Theirs(*at) for at, offset in starts.items() if offset < 0 and offset != BEGINNING]
        beginnings = [Theirs(*at) for at, offset in starts.items() if offset == BEGINNING]
        for at, offset in starts.items():
            self._fetched.pop(at, None)
            self._unreadable.pop(at, None)
            if offset >= 0:
                self._consumer.seek(Theirs(*at), offset)
        looks = [
            asyncio.ensure_future(look(*partitions))
            for look, partitions in ((self._consumer.seek_to_beginning, beginnings), (self._consumer.seek_to_end, ends))
            if partitions
        ]
        if looks:
            # Goes on in aiokafka's fetcher when a leader is away for longer: a rebalance must not wait for it.
            await asyncio.wait(looks, timeout=_LOOK_UP)
            for look in looks:
                look.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _is_assigned(self, at: TopicPartition) -> bool:
        return bool(self._consumer._subscription.is_assigned(at))

    async def begin(
        self,
        partitions: list[TopicPartition],
        where: Callable[[list[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]],
    ) -> None:
        """Called in a rebalance: the partitions are fetched from where the awaited answer of `where` says, and not at
        all before that."""
        self._paused.difference_update(partitions)
        self._held.update(partitions)
        for at in partitions:
            self._apply(at)
            # A position of any kind keeps the fetcher from looking for one itself.
            self._consumer.seek(Theirs(*at), 0)
        starts = await where(partitions)
        await self._move({at: starts[at] for at in partitions})
        self._held.difference_update(partitions)
        for at in partitions:
            self._apply(at)

    def hold(self) -> None:
        """Between two rebalances: nothing is handed over until `begin`."""
        assignment = self._consumer._subscription.subscription.assignment
        if assignment is not None:
            self._held.update(TopicPartition(*at) for at in assignment.tps)

    def end(self) -> None:
        """Called in a rebalance: nothing is assigned until `begin`."""
        self._paused.clear()
        self._held.clear()
        self._fetched.clear()
        self._unreadable.clear()

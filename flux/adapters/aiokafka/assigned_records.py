"""Reads the records of assigned partitions: where each starts, which are paused, and batches that cannot be decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition as ClientPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError, UnsupportedCodecError
from aiokafka.protocol.fetch import FetchRequest

from flux.adapters.aiokafka import codecs, internals
from flux.adapters.aiokafka.errors import error_for
from flux.adapters.aiokafka.log import ClientLog
from flux.adapters.aiokafka.records import Fetched, Unreadable, decode_first_batch
from flux.core.errors import BrokerError, ConfigurationError
from flux.core.ports import BEGINNING, Batch, PollResult, TopicPartition

_SEEK_TIMEOUT = 5.0  # seconds that finding the beginning or the end may delay a rebalance or a seek
_LEAST_FETCH_BYTES = 1024 * 1024


class FetchFailed(Exception):
    """aiokafka's fetcher reported `error` for a partition."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


async def wait_for_records(consumer: Any, timeout: float) -> None:
    """Returns when a fetch is answered, or after `timeout` seconds."""
    waiter = internals.fetch_waiter(consumer)
    try:
        await asyncio.wait([waiter], timeout=timeout)
    finally:
        if waiter.done() and not waiter.cancelled():
            waiter.exception()  # retrieved: it is raised again by `read` or check_errors
        waiter.cancel()


class AssignedRecords:
    """Takes records from the fetcher of aiokafka's `consumer`, in its event loop."""

    def __init__(self, consumer: Any, options: Mapping[str, Any], log: ClientLog) -> None:
        self._consumer = consumer
        self._options = options
        self._log = log
        self._fetched: dict[TopicPartition, Fetched] = {}
        self._unreadable: dict[TopicPartition, Unreadable] = {}
        self._paused: set[TopicPartition] = set()
        self._held: set[TopicPartition] = set()  # until `seek`, or until the listener has returned where they start

    async def read(self, max_records: int) -> PollResult:
        """Records that are fetched already. When it is cancelled, it has taken none. Raises FetchFailed, and
        BrokerError for a broken batch."""
        polled = PollResult()
        if not internals.subscription_of(self._consumer).reassignment_in_progress:
            self._take(max_records, polled)
            if not (polled.batches or polled.out_of_range) and self._unreadable:
                await self._read_unreadable(max_records, polled)
        return polled

    def reached(self) -> dict[TopicPartition, int]:
        """By partition that is read to its end, as a fetch has confirmed, the offset of that end."""
        if internals.subscription_of(self._consumer).reassignment_in_progress:
            return {}
        assignment = internals.assignment_of(self._consumer)
        committed_only = self._options.get("isolation_level") == "read_committed"
        reached: dict[TopicPartition, int] = {}
        for tp in assignment.tps:
            at, state = TopicPartition(*tp), assignment.state_value(tp)
            if state.has_valid_position and at not in self._held and state.highwater is not None:
                # an old broker tells no last stable offset
                end = state.lso if committed_only and state.lso is not None else state.highwater
                if end <= state.position <= state.highwater:
                    reached[at] = state.position
        return reached

    def _take(self, max_records: int, polled: PollResult) -> None:
        """Has no await: a cancellation cannot lose records that were taken."""
        fetched_by_partition = internals.fetched_of(self._consumer)
        for at in list(fetched_by_partition):
            if at in self._paused or at in self._held or at in self._unreadable:
                continue
            result = fetched_by_partition[at]
            if type(result) is not FetchResult:
                if polled.batches or polled.out_of_range:
                    continue  # an error now would lose them
                self._drop(at)
                self._on_fetch_error(TopicPartition(*at), internals.error_of(result), polled)
                continue
            assignment = internals.assignment_of_result(result)
            state = assignment.state_value(at) if assignment.active else None
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
            state.consumed_to(fetched.next_offset)
            if fetched.exhausted:
                self._drop(at)
            if records:
                polled.batches.append(Batch(records[0][1], records))
                max_records -= len(records)
                if max_records <= 0:
                    # Read last next time, or one partition could starve the others.
                    if at in fetched_by_partition:
                        fetched_by_partition.move_to_end(at)
                    return

    def _drop(self, at: Any) -> None:
        self._fetched.pop(at, None)
        internals.drop_fetched(self._consumer, at)

    def _on_fetch_error(self, at: TopicPartition, error: Exception, polled: PollResult) -> None:
        if not isinstance(error, OffsetOutOfRangeError | NoOffsetForPartitionError):
            raise FetchFailed(error)
        self._held.add(at)
        self._apply(at)
        polled.out_of_range.append(at)

    async def _read_unreadable(self, max_records: int, polled: PollResult) -> None:
        """Fetches the batch again, for its bytes. Records with a header name that is not UTF-8 are delivered like any
        others. A batch that is broken otherwise must not be skipped, so `poll` raises for it from now on."""
        at, error = next(iter(self._unreadable.items()))
        client, options = internals.client_of(self._consumer), self._options
        assignment = internals.assignment_of(self._consumer)
        state = assignment.state_value(at) if assignment is not None else None
        node = client.cluster.leader_for_partition(at)
        if state is None or state.position != error.offset:
            self._forget_unreadable(at)
            return
        if node is None or node == -1:
            client.force_metadata_update()
            return
        size = max(_LEAST_FETCH_BYTES, options["max_partition_fetch_bytes"])
        committed_only = int(options.get("isolation_level") == "read_committed")
        topics = [(at.topic, [(at.partition, error.offset, size)])]
        try:
            answer = await client.send(
                node, FetchRequest(options["fetch_max_wait_ms"], 1, size, committed_only, topics)
            )
        except KafkaError as failure:
            self._log.warn(type(failure), f"cannot fetch {at} again: {failure}")
            return
        # A rebalance, a seek or a pause may have happened meanwhile.
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
            records, following = decode_first_batch(data, error.offset, at)
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

    # -- pausing and seeking

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
        """Sets whether aiokafka fetches the partition."""
        if not self._is_assigned(at):
            return
        subscription = internals.subscription_of(self._consumer)
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
        ends = [ClientPartition(*at) for at, offset in starts.items() if offset < 0 and offset != BEGINNING]
        beginnings = [ClientPartition(*at) for at, offset in starts.items() if offset == BEGINNING]
        for at, offset in starts.items():
            self._fetched.pop(at, None)
            self._unreadable.pop(at, None)
            if offset >= 0:
                self._consumer.seek(ClientPartition(*at), offset)
        consumer = self._consumer
        seeks = [
            asyncio.ensure_future(seek(*partitions))
            for seek, partitions in ((consumer.seek_to_beginning, beginnings), (consumer.seek_to_end, ends))
            if partitions
        ]
        if seeks:
            # Continues in aiokafka's fetcher when a leader is unavailable for longer: a rebalance must not wait for it.
            await asyncio.wait(seeks, timeout=_SEEK_TIMEOUT)
            for seek in seeks:
                seek.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _is_assigned(self, at: TopicPartition) -> bool:
        return bool(internals.subscription_of(self._consumer).is_assigned(at))

    async def begin(
        self,
        partitions: list[TopicPartition],
        find_starts: Callable[[list[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]],
    ) -> None:
        """Called in a rebalance. Fetches nothing until `find_starts` has returned the offset at which each starts."""
        self._paused.difference_update(partitions)
        self._held.update(partitions)
        for at in partitions:
            self._apply(at)
            # With any fetch position, the fetcher does not look for one itself.
            self._consumer.seek(ClientPartition(*at), 0)
        starts = await find_starts(partitions)
        await self._move({at: starts[at] for at in partitions})
        self._held.difference_update(partitions)
        for at in partitions:
            self._apply(at)

    def hold(self) -> None:
        """Called between two rebalances: delivers nothing until `begin`."""
        assignment = internals.assignment_of(self._consumer)
        if assignment is not None:
            self._held.update(TopicPartition(*at) for at in assignment.tps)

    def end(self) -> None:
        """Called in a rebalance: no partition is assigned until `begin`."""
        self._paused.clear()
        self._held.clear()
        self._fetched.clear()
        self._unreadable.clear()

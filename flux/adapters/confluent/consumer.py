"""A member of a consumer group by confluent-kafka.

librdkafka calls back inside `consume` and `close`, on the caller's thread. An exception that leaves such a callback
loses the records of that call, so each is kept and raised by `poll` after `consume` has returned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException

from flux.adapters.confluent.callbacks import ErrorCallback
from flux.adapters.confluent.closing import ClosedConsumer, ended_within, leave_and_close
from flux.adapters.confluent.commits import Commits, Done, membership_of
from flux.adapters.confluent.config import group_protocol
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.log import ClientLog
from flux.adapters.confluent.messages import OUT_OF_RANGE, batches_of, split_errors
from flux.adapters.confluent.silence import Silence
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, ConsumerSettings, PollResult, RebalanceListener, TopicPartition
from flux.system import Lock

_LOGGED = {KafkaError._MAX_POLL_EXCEEDED}  # a rebalance follows
_CLOSING = 2.5  # seconds
_REJOINS = {Fault.UNAVAILABLE, Fault.FENCED}  # librdkafka continues by itself, unless the error is fatal
_RETRY = 0.5  # seconds between two attempts to start


class ConfluentConsumer:
    """`flux.core.ports.ConsumerPort`. A child process that inherits one must not use it."""

    def __init__(
        self,
        properties: dict[str, Any],
        settings: ConsumerSettings,
        listener: RebalanceListener,
        log: ClientLog,
        making: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`making`: a context for making the client. When it raises a retriable BrokerError, `poll` tries again."""
        self._settings = settings
        self._listener = listener
        self._log = log
        self._partitions: dict[int, TopicPartition] = {}
        self._paused: set[int] = set()
        self._commits = Commits(self._translated, self._named)
        self._membership: bytes | None = None
        self._membership_wanted = False  # whether it has been asked for
        self._first: list[Any] = []  # consumed, while a rebalance may still revoke its partition
        self._worked = False  # whether the cluster has ever answered
        self._awaits_first = group_protocol(properties) == "consumer"  # librdkafka reports no empty first assignment
        self._failure: BaseException | None = None
        self._final = False  # whether every later poll raises `_failure`: records may have been skipped
        self._closed = False
        self._close_lock = Lock()
        self._static = "group.instance.id" in properties
        self.max_poll_interval = float(properties.get("max.poll.interval.ms", 300_000)) / 1000
        self._on_error = ErrorCallback(
            log,
            f"cannot consume topic {settings.topic} in group {settings.group}",
            properties,
            refused=lambda error: self._fail(error, final=False),
            failed=lambda error: self._fail(error, final=True),
        )
        self._properties = Silence(properties, log, time.monotonic).properties(
            {"logger": log} | properties | {"error_cb": self._on_error, "on_commit": self._on_commit}
        )
        self._making = making
        self._client: Any = None
        self._start()

    def _start(self) -> None:
        try:
            with self._making():
                client = Consumer(self._properties)
        except BrokerError as error:
            if not error.retriable:
                raise
            self._log.warn("start", f"{error}: trying again")
            return
        client.subscribe(
            [self._settings.topic],
            on_assign=self._on_assign,
            on_revoke=lambda client, gone: self._release(self._listener.revoked, client, gone),
            on_lost=lambda client, gone: self._release(self._listener.lost, client, gone),
        )
        self._client = client

    def poll(self, max_records: int, timeout: float) -> PollResult:
        if self._client is None:
            self._start()
            if self._client is None:
                time.sleep(min(timeout, _RETRY))
                return PollResult()
        if self._failure is not None:
            self._raise()
        polled = PollResult()
        records, errors = split_errors(self._consumed(max_records, timeout))
        if self._membership_wanted or self._awaits_first:
            self._membership = membership_of(self._client)
        for message in errors:
            self._on_message_error(message, message.error(), polled)
        if self._failure is not None and (self._final or not records):
            self._raise()
        if self._awaits_first and not records and self._membership is not None:
            self._assigned([])
        polled.batches = batches_of(records, self._named)
        return polled

    def _consumed(self, max_records: int, timeout: float) -> list[Any]:
        """Returns as soon as there is one record, with the others that are there by then: `consume(n, t)` alone waits
        for `t` unless n arrive."""
        self._first = []
        try:
            self._first = self._client.consume(1, timeout)
            if not self._first or max_records <= 1:
                return self._first
            rest: list[Any] = self._client.consume(max_records - 1, 0)
            return self._first + rest if self._first else rest
        except KafkaException as error:
            self._fail(self._translated(error.args[0]), final=bool(error.args[0].fatal()))
            return self._first
        except BaseException as error:
            # Such as KeyboardInterrupt: the client has moved past records that were not returned.
            self._fail(error, final=True)
            raise

    def _on_message_error(self, message: Any, error: KafkaError, polled: PollResult) -> None:
        if error.code() in OUT_OF_RANGE and message.partition() is not None:
            polled.out_of_range.append(self._named(message.partition()))
            return
        if error.code() == KafkaError._PARTITION_EOF:
            polled.reached[self._named(message.partition())] = message.offset()
            return
        fault = fault_of(error)
        fatal = error.fatal() or error.code() == KafkaError._FATAL
        if error.code() in _LOGGED or (fault in _REJOINS and not fatal):
            self._log.error(error)
        elif fault is Fault.UNKNOWN_TOPIC and self._worked:
            self._log.warn(error.code(), f"{error.str()}: nothing comes from topic {self._settings.topic}")
        elif fault is Fault.LOGIN:
            self._on_error(error)
        else:
            # Going on would skip records after other errors, such as a record that cannot be decoded.
            temporary = fault in (Fault.UNKNOWN_TOPIC, Fault.DENIED)
            self._fail(self._translated(error), final=not temporary)

    def _named(self, number: int) -> TopicPartition:
        known = self._partitions
        return known.get(number) or known.setdefault(number, TopicPartition(self._settings.topic, number))

    # -- pausing and seeking

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        numbers = [p.partition for p in partitions]
        self._paused.update(numbers)
        self._client.pause(self._client_partitions(numbers))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        numbers = [p.partition for p in partitions]
        self._paused.difference_update(numbers)
        self._client.resume(self._client_partitions(numbers))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        target = confluent_kafka.TopicPartition(partition.topic, partition.partition, offset)
        try:
            try:
                self._client.seek(target)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._STATE:
                    raise
                # After "out of range" librdkafka stops fetching the partition and refuses to seek.
                self._client.incremental_unassign([target])
                self._client.incremental_assign([target])
                if partition.partition in self._paused:
                    self._client.pause([target])
        except KafkaException as error:
            raise self._translated(error.args[0], f"cannot seek {partition}") from None

    # -- committed offsets

    def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset | None]:
        committed = self._commits.committed(self._client, partitions, timeout)
        self._connected()
        return committed

    def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], done: Done) -> None:
        self._commits.start(self._client, offsets, done)

    def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        """Exceeds `timeout` only when the cluster fails, or a rebalance begins, just as the commit is sent."""
        if offsets:
            self._commits.commit(self._client, offsets, timeout, self._closed)

    def membership(self) -> bytes | None:
        """As the thread that polls last read it: confluent-kafka lets one thread at a time into a consumer, and another
        one would wait for a poll to end, or for ever while polls follow each other."""
        self._membership_wanted = True
        return None if self._closed else self._membership

    def close(self) -> None:
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        self._failure = None
        if self._client is None:
            self._client = ClosedConsumer()
            return
        try:
            # librdkafka waits for commits in flight, a minute and more, and until the broker knows that it leaves.
            if not ended_within(_CLOSING, self._close_client):
                self._log.warn("close", f"leaving {self._settings.group} takes too long: its session will time out")
        finally:
            self._client = ClosedConsumer()
            closed = BrokerError("the consumer closed before the commit was answered", Fault.UNAVAILABLE)
            self._commits.fail_pending(closed)
        if self._failure is not None and self._final:
            raise self._failure

    def _close_client(self) -> None:
        try:
            leave_and_close(self._client, self._static)
        except KafkaException as error:
            self._log.error(error.args[0])

    # -- callbacks

    def _assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self._connected()
        self._awaits_first = False
        return self._listener.assigned(partitions)

    def _on_assign(self, client: Consumer, partitions: list[Any]) -> None:
        with self._failing():
            starts = self._assigned([self._named(p.partition) for p in partitions])
            for partition in partitions:
                partition.offset = starts[self._named(partition.partition)]
        with self._failing():
            client.incremental_assign(partitions)
            # librdkafka keeps a partition paused that was revoked and is assigned again.
            paused = self._paused.intersection(p.partition for p in partitions)
            if paused:
                self._paused -= paused
                client.resume(self._client_partitions(paused))
            self._membership = membership_of(client)

    def _release(
        self, notify: Callable[[Sequence[TopicPartition]], None], client: Consumer, partitions: list[Any]
    ) -> None:
        gone = {p.partition for p in partitions}
        self._first = [message for message in self._first if message.partition() not in gone]
        with self._failing():
            self._membership = membership_of(client)  # a rebalance may have changed it since the last poll
            if partitions:
                notify([self._named(p.partition) for p in partitions])
        with self._failing():
            client.incremental_unassign(partitions)

    def _on_commit(self, error: KafkaError | None, partitions: list[Any]) -> None:
        with self._failing():
            self._commits.on_commit(error, partitions)

    def _connected(self) -> None:
        self._worked = True
        self._log.authentication.accepted()

    def _fail(self, error: BaseException, final: bool) -> None:
        if self._failure is None or (final and not self._final):
            self._failure, self._final = error, final

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._fail(error, final=True)

    def _raise(self) -> None:
        failure = self._failure
        assert failure is not None
        if not self._final:
            self._failure = None
        raise failure

    def _translated(self, error: KafkaError, doing: str = "") -> BrokerError:
        topic, group = self._settings.topic, self._settings.group
        what = f"group {group}" if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED else f"topic {topic}"
        return self._log.translated(error, doing or f"cannot consume topic {topic} in group {group}", f"READ on {what}")

    def _client_partitions(self, numbers: Iterable[int]) -> list[Any]:
        return [confluent_kafka.TopicPartition(self._settings.topic, number) for number in numbers]

"""A member of a consumer group by confluent-kafka.

librdkafka calls back inside `consume` and `close`, on the caller's thread. An exception that left a callback there
would take the records of that call with it, so each is kept and raised by `poll` once `consume` has returned.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from flux.adapters.confluent.closing import closed_within
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.log import ClientLog
from flux.adapters.confluent.silence import Silence
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    Batch,
    CommittedOffset,
    ConsumerSettings,
    PollResult,
    RebalanceListener,
    TopicPartition,
)

_error = Message.error
_partition: Callable[[Any], int] = Message.partition  # type: ignore[assignment]

_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._NO_OFFSET}
_PASSING = {KafkaError._MAX_POLL_EXCEEDED}  # the rebalance that follows says the rest
_CLOSING = 2.5  # seconds
_LEAVING = 1.0  # seconds: that long with a cluster that is away, and with KIP-848, whose members keep their names
_REJOINS = {Fault.UNAVAILABLE, Fault.FENCED}  # librdkafka goes on by itself, unless it is fatal

_AGAIN = 0.5  # seconds between two attempts to begin

Done = Callable[[BrokerError | None], None]


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
        """`making`: around the making of librdkafka's client. Where that raises a BrokerError that is retriable, it
        is tried again in `poll`."""
        self._settings = settings
        self._listener = listener
        self._log = log
        self._users_error_cb = properties.get("error_cb")
        self._partitions: dict[int, TopicPartition] = {}
        self._paused: set[int] = set()
        self._commits: deque[tuple[frozenset[tuple[int, int]], Done]] = deque()
        self._first: list[Any] = []  # consumed, while a rebalance may still take its partition away
        self._worked = False  # whether the cluster has ever answered
        self._failure: BaseException | None = None
        self._final = False  # whether every later poll raises `_failure`: records may have been passed over
        self._away = False  # whether the group's coordinator did not answer when last asked
        self._closed = False
        self._static = "group.instance.id" in properties
        self.max_poll_interval = float(properties.get("max.poll.interval.ms", 300_000)) / 1000
        self._properties = Silence(properties, log, time.monotonic).properties(
            {"logger": log} | properties | {"error_cb": self._on_error, "on_commit": self._on_commit}
        )
        self._making = making
        self._client: Any = None
        self._begin()

    # -- records

    def _begin(self) -> None:
        try:
            with self._making():
                client = Consumer(self._properties)
        except BrokerError as error:
            if not error.retriable:
                raise
            self._log.warn("begin", f"{error}: trying again")
            return
        client.subscribe(
            [self._settings.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        self._client = client

    def poll(self, max_records: int, timeout: float) -> PollResult:
        if self._client is None:
            self._begin()
            if self._client is None:
                time.sleep(min(timeout, _AGAIN))
                return PollResult()
        if self._failure is not None:
            self._raise()
        polled = PollResult()
        messages = self._consumed(max_records, timeout)
        # C-level scans: a loop over the records here would cost more than consuming them.
        if any(map(_error, messages)):
            messages = self._without_errors(messages, polled)
        if self._failure is not None and (self._final or not messages):
            self._raise()
        if messages:
            numbers = list(map(_partition, messages))
            first = numbers[0]
            if numbers.count(first) == len(numbers):
                polled.batches.append(Batch(self._named(first), messages))
            else:
                start = 0
                for number, group in groupby(numbers):
                    end = start + len(list(group))
                    polled.batches.append(Batch(self._named(number), messages[start:end]))
                    start = end
        return polled

    def _consumed(self, max_records: int, timeout: float) -> list[Any]:
        """One record as soon as it is there, and what else is there by then: `consume(n, t)` alone would wait the
        whole time unless n arrive."""
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
            # Such as KeyboardInterrupt: the client has moved past records that nobody saw.
            self._fail(error, final=True)
            raise

    def _without_errors(self, messages: list[Any], polled: PollResult) -> list[Any]:
        errors = list(map(_error, messages))
        for message, error in zip(messages, errors, strict=True):
            if error is None:
                continue
            if error.code() in _OUT_OF_RANGE and message.partition() is not None:
                polled.out_of_range.append(self._named(message.partition()))
            elif error.code() == KafkaError._PARTITION_EOF:
                polled.reached[self._named(message.partition())] = message.offset()
            else:
                self._on_message_error(error)
        return [message for message, error in zip(messages, errors, strict=True) if error is None]

    def _on_message_error(self, error: KafkaError) -> None:
        fault = fault_of(error)
        fatal = error.fatal() or error.code() == KafkaError._FATAL
        if error.code() in _PASSING or (fault in _REJOINS and not fatal):
            self._log.error(error)
        elif fault is Fault.UNKNOWN_TOPIC and self._worked:
            self._log.warn(error.code(), f"{error.str()}: nothing comes from topic {self._settings.topic}")
        elif fault is Fault.LOGIN:
            self._on_error(error)
        else:
            # What is left, such as a record that cannot be unpacked, would be passed over by going on.
            mends = fault in (Fault.UNKNOWN_TOPIC, Fault.DENIED)
            self._fail(self._translated(error), final=not mends)

    def _named(self, number: int) -> TopicPartition:
        try:
            return self._partitions[number]
        except KeyError:
            return self._partitions.setdefault(number, TopicPartition(self._settings.topic, number))

    # -- flow

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        numbers = [p.partition for p in partitions]
        self._paused.update(numbers)
        self._client.pause(self._theirs(numbers))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        numbers = [p.partition for p in partitions]
        self._paused.difference_update(numbers)
        self._client.resume(self._theirs(numbers))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        target = confluent_kafka.TopicPartition(partition.topic, partition.partition, offset)
        try:
            try:
                self._client.seek(target)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._STATE:
                    raise
                # After "out of range" librdkafka fetches the partition no more and refuses to seek.
                self._client.incremental_unassign([target])
                self._client.incremental_assign([target])
                if partition.partition in self._paused:
                    self._client.pause([target])
        except KafkaException as error:
            raise self._translated(error.args[0], f"cannot seek {partition}") from None

    # -- positions

    def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset | None]:
        try:
            answer = self._client.committed(self._theirs(p.partition for p in partitions), timeout)
        except KafkaException as error:
            raise self._translated(error.args[0], "cannot read the group's committed offsets") from None
        self._raise_first_error(answer, "cannot read the group's committed offsets")
        self._works()
        return {self._named(p.partition): position_of(p) for p in answer}

    def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], done: Done) -> None:
        if not offsets:
            done(None)
            return
        try:
            self._client.commit(offsets=self._offsets(offsets), asynchronous=True)
        except KafkaException as error:
            done(self._translated(error.args[0], "cannot commit"))
        except ValueError as error:  # UnicodeError is one
            done(BrokerError(f"cannot commit: the metadata is no text for Kafka ({error})", Fault.METADATA))
        else:
            key = frozenset((p.partition, position.offset) for p, position in offsets.items())
            self._commits.append((key, done))

    def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        """Beyond `timeout` only when the cluster goes away, or a rebalance begins, just as the commit is sent."""
        if not offsets:
            return
        self._check_coordinator(offsets, timeout)
        try:
            answer = self._client.commit(offsets=self._offsets(offsets), asynchronous=False)
        except KafkaException as error:
            raise self._translated(error.args[0], "cannot commit") from None
        except ValueError as error:
            raise BrokerError(f"cannot commit: the metadata is no text for Kafka ({error})", Fault.METADATA) from None
        self._raise_first_error(answer, "cannot commit")

    def _check_coordinator(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        """A commit that waits has no limit of the caller's in librdkafka, but one of 45 s and more; a question for
        positions has one, and goes the same way. While it closes, librdkafka answers no questions."""
        if not self._closed:
            self._away = True
            self.committed(list(offsets), timeout)
            self._away = False
        elif self._away:
            raise BrokerError("cannot commit: the group's coordinator is away", Fault.UNAVAILABLE)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._failure = None
        if self._client is None:
            self._client = _Closed()
            return
        try:
            # librdkafka waits for commits in flight, a minute and more, and for the broker to hear that it leaves.
            if not closed_within(_CLOSING, self._close_client):
                self._log.warn("close", f"leaving {self._settings.group} takes too long: its session will time out")
        finally:
            self._client = _Closed()
            unanswered, self._commits = self._commits, deque()
            for _, done in unanswered:
                done(BrokerError("the consumer closed before the commit was answered", Fault.UNAVAILABLE))
        if self._failure is not None and self._final:
            raise self._failure

    def _close_client(self) -> None:
        client = self._client
        try:
            # Under the cooperative protocol librdkafka lets a member that has no partitions close without leaving, and
            # the group waits for it until its session ends. A static member must not leave.
            if not self._static and not client.assignment():
                client.unsubscribe()
                self._leave(client)
            client.close()
        except KafkaException as error:
            self._log.error(error.args[0])

    def _leave(self, client: Any) -> None:
        """While it joins, librdkafka leaves only when it is polled once more; then it forgets who it was."""
        until = time.monotonic() + _LEAVING
        while client.memberid() and time.monotonic() < until:
            client.consume(1, 0.01)

    # -- callbacks

    def _on_assign(self, client: Consumer, partitions: list[Any]) -> None:
        try:
            self._works()
            named = [self._named(p.partition) for p in partitions]
            starts = self._listener.assigned(named)
            for partition, name in zip(partitions, named, strict=True):
                partition.offset = starts[name]
        except BaseException as error:
            self._fail(error, final=True)
        try:
            client.incremental_assign(partitions)
            # librdkafka keeps a partition paused that was given up and comes back.
            back = self._paused.intersection(p.partition for p in partitions)
            if back:
                self._paused -= back
                client.resume(self._theirs(back))
        except BaseException as error:
            self._fail(error, final=True)

    def _on_revoke(self, client: Consumer, partitions: list[Any]) -> None:
        self._given_up(client, partitions, self._listener.revoked)

    def _on_lost(self, client: Consumer, partitions: list[Any]) -> None:
        self._given_up(client, partitions, self._listener.lost)

    def _given_up(
        self, client: Consumer, partitions: list[Any], tell: Callable[[Sequence[TopicPartition]], None]
    ) -> None:
        gone = {p.partition for p in partitions}
        self._first = [message for message in self._first if message.partition() not in gone]
        try:
            if partitions:
                tell([self._named(p.partition) for p in partitions])
        except BaseException as error:
            self._fail(error, final=True)
        try:
            client.incremental_unassign(partitions)
        except BaseException as error:
            self._fail(error, final=True)

    def _on_commit(self, error: KafkaError | None, partitions: list[Any]) -> None:
        try:
            if not self._commits:
                return
            key = frozenset((p.partition, p.offset) for p in partitions)
            found = next((entry for entry in self._commits if entry[0] == key), self._commits[0])
            self._commits.remove(found)
            error = error or next((p.error for p in partitions if p.error), None)
            found[1](None if error is None else self._translated(error, "cannot commit"))
        except BaseException as failure:
            self._fail(failure, final=True)

    def _on_error(self, error: KafkaError) -> None:
        try:
            topic, group = self._settings.topic, self._settings.group
            refused = self._log.refusal(error, f"cannot consume topic {topic} in group {group}")
            if refused is not None:
                self._fail(refused, final=False)
            if self._users_error_cb is not None:
                self._users_error_cb(error)
        except BaseException as failure:
            self._fail(failure, final=True)

    # -- errors

    def _works(self) -> None:
        self._worked = True
        self._log.authentication.accepted()

    def _fail(self, error: BaseException, final: bool) -> None:
        if self._failure is None or (final and not self._final):
            self._failure, self._final = error, final

    def _raise(self) -> None:
        failure = self._failure
        assert failure is not None
        if not self._final:
            self._failure = None
        raise failure

    def _translated(self, error: KafkaError, doing: str = "") -> BrokerError:
        topic, group = self._settings.topic, self._settings.group
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            needs = f"READ on group {group}"
        else:
            needs = f"READ on topic {topic}"
        return self._log.translated(error, doing or f"cannot consume topic {topic} in group {group}", needs)

    def _raise_first_error(self, partitions: Iterable[Any], doing: str) -> None:
        for partition in partitions:
            if partition.error:
                raise self._translated(partition.error, f"{doing} of {self._named(partition.partition)}")

    # -- confluent's partitions

    def _theirs(self, numbers: Iterable[int]) -> list[Any]:
        return [confluent_kafka.TopicPartition(self._settings.topic, number) for number in numbers]

    def _offsets(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> list[Any]:
        return [
            confluent_kafka.TopicPartition(p.topic, p.partition, offset, metadata)
            for p, (offset, metadata) in offsets.items()
        ]


class _Closed:
    """In the place of a client that was closed."""

    def __getattr__(self, name: str) -> Any:
        raise BrokerError("the consumer is closed", Fault.FATAL)


def position_of(partition: Any) -> CommittedOffset | None:
    """A committed position as confluent-kafka gives it; it may append a NUL to the metadata. A string that another
    client wrote it may read beyond its end: what is no text there is replaced, so that it counts as damaged."""
    if partition.offset < 0:
        return None
    try:
        metadata = partition.metadata or ""
    except UnicodeDecodeError as error:
        metadata = error.object.decode(errors="replace")
    return CommittedOffset(partition.offset, metadata.rstrip("\0"))

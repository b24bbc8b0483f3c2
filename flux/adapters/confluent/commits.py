"""Commits and committed offsets, of a member of a consumer group and from outside it."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException

from flux.adapters.operations import invalid_metadata
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, TopicPartition

Done = Callable[[BrokerError | None], None]

_MEMBERSHIP = b"CGMDv2:"
_RETRY = 0.2  # seconds between two attempts
_SHARE = 0.3
"""Part of a time limit for one attempt: a client with a wrong coordinator sends all requests to that one."""
_COORDINATOR_MOVES = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._WAIT_COORD,
    KafkaError._TIMED_OUT,
}


class Commits:
    """Of one member. `translate`: makes a BrokerError of an error and what was attempted; `name`: the partition of a
    number in the member's topic."""

    def __init__(
        self, translate: Callable[[KafkaError, str], BrokerError], name: Callable[[int], TopicPartition]
    ) -> None:
        self._translate = translate
        self._name = name
        self._pending: deque[tuple[frozenset[tuple[int, int]], Done]] = deque()
        self._coordinator_silent = False  # whether it did not answer the last request

    def committed(
        self, client: Any, partitions: Iterable[TopicPartition], timeout: float
    ) -> dict[TopicPartition, CommittedOffset | None]:
        doing = "cannot read the group's committed offsets"
        wanted = [confluent_kafka.TopicPartition(p.topic, p.partition) for p in partitions]
        answer = self._checked(lambda: client.committed(wanted, timeout), doing)
        return {self._name(p.partition): committed_offset_of(p) for p in answer}

    def start(self, client: Any, offsets: Mapping[TopicPartition, CommittedOffset], done: Done) -> None:
        """Calls `done` at once when there is nothing to commit, or it cannot be sent; else `on_commit` does."""
        if not offsets:
            done(None)
            return
        try:
            client.commit(offsets=client_offsets(offsets), asynchronous=True)
        except KafkaException as error:
            done(self._translate(error.args[0], "cannot commit"))
        except ValueError as error:  # UnicodeError is one
            done(invalid_metadata("cannot commit", error))
        else:
            self._pending.append((frozenset((p.partition, offset.offset) for p, offset in offsets.items()), done))

    def on_commit(self, error: KafkaError | None, partitions: list[Any]) -> None:
        """librdkafka's callback."""
        if not self._pending:
            return
        key = frozenset((p.partition, p.offset) for p in partitions)
        found = next((entry for entry in self._pending if entry[0] == key), self._pending[0])
        self._pending.remove(found)
        error = error or next((p.error for p in partitions if p.error), None)
        found[1](None if error is None else self._translate(error, "cannot commit"))

    def commit(
        self, client: Any, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float, closing: bool
    ) -> None:
        """librdkafka gives a synchronous commit a limit of its own, 45 s and more. So the committed offsets are read
        before, from the same broker and with the caller's limit. While it closes, librdkafka answers no reads."""
        if not closing:
            self._coordinator_silent = True
            self.committed(client, offsets, timeout)
            self._coordinator_silent = False
        elif self._coordinator_silent:
            raise BrokerError("cannot commit: the group's coordinator is unavailable", Fault.UNAVAILABLE)
        try:
            self._checked(lambda: client.commit(offsets=client_offsets(offsets), asynchronous=False), "cannot commit")
        except ValueError as error:
            raise invalid_metadata("cannot commit", error) from None

    def fail_pending(self, error: BrokerError) -> None:
        unanswered, self._pending = self._pending, deque()
        for _, done in unanswered:
            done(error)

    def _checked(self, request: Callable[[], list[Any]], doing: str) -> list[Any]:
        try:
            answer = request()
        except KafkaException as error:
            raise self._translate(error.args[0], doing) from None
        for partition in answer:
            if partition.error:
                raise self._translate(partition.error, f"{doing} of {self._name(partition.partition)}")
        return answer


def membership_of(client: Any) -> bytes | None:
    """A consumer's `flux.core.ports.Membership`, as librdkafka serializes it: `CGMDv2:`, the generation (4 bytes in the
    machine's order), and names. The generation is -1 outside a group, and 0 while a member joins (KIP-848). Source:
    rd_kafka_consumer_group_metadata_write in rdkafka_cgrp.c"""
    try:
        serialized: bytes = client.consumer_group_metadata()
    except RuntimeError:  # "not available", or the client is closed
        return None
    generation = int.from_bytes(serialized[len(_MEMBERSHIP) :][:4], sys.byteorder, signed=True)
    return serialized if serialized.startswith(_MEMBERSHIP) and generation > 0 else None


@contextmanager
def outside_consumer(
    properties: Mapping[str, Any],
    group: str,
    partitions: list[Any],
    timeout: float,
    now: Callable[[], float],
    wait: Callable[[float], object],
) -> Iterator[tuple[Any, list[Any]]]:
    """A consumer that never joins the group, and what the group has committed. Not an admin client: while a group's
    coordinator is being found, librdkafka 2.16 passes the request on to a consumer that an admin client does not have,
    and the process dies. Raises KafkaException."""
    until = now() + timeout
    while True:
        consumer = Consumer({**properties, "group.id": group, "enable.auto.commit": False})
        try:
            try:
                committed = consumer.committed(partitions, max(min(timeout * _SHARE, until - now()), 0.001))
                raise_first_error(committed)
            except KafkaException as error:
                if error.args[0].code() not in _COORDINATOR_MOVES or now() + _RETRY > until:
                    raise
                wait(_RETRY)
                continue
            yield consumer, committed
            return
        finally:
            consumer.close()


def raise_first_error(partitions: Iterable[Any]) -> None:
    """Raises KafkaException for the first partition with an error."""
    for partition in partitions:
        if partition.error:
            raise KafkaException(partition.error)


def client_offsets(offsets: Mapping[TopicPartition, CommittedOffset]) -> list[Any]:
    """Offsets as confluent-kafka takes them."""
    return [
        confluent_kafka.TopicPartition(p.topic, p.partition, offset, metadata)
        for p, (offset, metadata) in offsets.items()
    ]


def committed_offset_of(partition: Any) -> CommittedOffset | None:
    """A committed offset as confluent-kafka returns it; None: there is none. It may end the metadata with a NUL, and
    read another client's beyond its end: invalid bytes there are replaced, so that the metadata counts as damaged."""
    if partition.offset < 0:
        return None
    try:
        metadata = partition.metadata or ""
    except UnicodeDecodeError as error:
        metadata = error.object.decode(errors="replace")
    return CommittedOffset(partition.offset, metadata.rstrip("\0"))

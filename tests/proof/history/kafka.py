"""What a history needs of the cluster: what topics hold, and every commit, read by a plain read_committed consumer.

Commits are read from `__consumer_offsets`, where the brokers store them with the time: nothing here comes from flux.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from proof.history.events import Committed

OFFSETS = "__consumer_offsets"


def read_topic(bootstrap: str, topic: str, seconds: float = 30.0) -> list[Any]:
    """All that a topic holds, each partition in order; no records of transactions that were not committed, and none
    behind the first record of an open one. Fails if that takes longer than `seconds`."""
    client = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        unread = set(client.list_topics(topic, seconds).topics[topic].partitions)
        client.assign([TopicPartition(topic, partition, 0) for partition in unread])
        found = []
        until = time.monotonic() + seconds
        while unread:
            assert time.monotonic() < until, f"topic {topic} was not read in {seconds:g} s"
            for message in client.consume(1000, 0.2):
                if message.error() is None:
                    found.append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:  # type: ignore[union-attr]
                    unread.discard(message.partition())
        return found
    finally:
        client.close()


def commits(messages: Iterable[Any], stages: Mapping[tuple[str, str], int]) -> Iterator[Committed]:
    """The commits among what `__consumer_offsets` holds. `stages`: by group and topic; other commits are left out."""
    for message in messages:
        place = _place(message.key())
        if place is None or message.value() is None or place[:2] not in stages:
            continue
        offset, metadata, stamp = _commit(message.value())
        yield Committed(stages[place[:2]], place[2], offset, metadata, stamp)


def _place(key: bytes) -> tuple[str, str, int] | None:
    """(group, topic, partition); None: another kind of record."""
    (version,) = struct.unpack_from(">h", key)
    if version not in (0, 1):
        return None
    group, at = _string(key, 2)
    topic, at = _string(key, at)
    return group, topic, struct.unpack_from(">i", key, at)[0]


def _commit(value: bytes) -> tuple[int, str, int]:
    version, offset, _leader_epoch = struct.unpack_from(">hqi", value)
    match version:
        case 3:
            metadata, at = _string(value, 14)
        case 4:  # its strings are compact ones
            metadata, at = _compact_string(value, 14)
        case _:
            raise ValueError(f"a commit of version {version}: only 3 and 4 are known")
    return offset, metadata.rstrip("\0"), struct.unpack_from(">q", value, at)[0]  # librdkafka appends a NUL


def _string(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, at)
    return data[at + 2 : at + 2 + size].decode(), at + 2 + size


def _compact_string(data: bytes, at: int) -> tuple[str, int]:
    """Its length and 1, as a varint, come before it."""
    size = shift = 0
    more = True
    while more:
        size |= (data[at] & 127) << shift
        more = data[at] > 127
        at, shift = at + 1, shift + 7
    return data[at : at + size - 1].decode(), at + size - 1

"""A record after its write, for clients that have no record class of their own."""

from __future__ import annotations

from flux.core.ports import Headers, ProducerRecord

RECORD_OVERHEAD = 70
"""Bytes that a batch of one record takes besides key, value and headers (61 of header, the rest varints)."""


class WrittenRecord:
    """`flux.core.ports.Record`, made of what was given to a producer and where it was written. `at`: its offset; -1:
    not known, or not written. `timestamp`: as `Record.timestamp` returns it. Its methods change nothing in it."""

    __slots__ = ("_headers", "_key", "_partition", "_timestamp", "_topic", "_value", "at")

    def __init__(self, topic: str, partition: int, at: int, record: ProducerRecord, timestamp: tuple[int, int]) -> None:
        self._topic = topic
        self._partition = partition
        self.at = at
        self._key = record.key
        self._value = record.value
        self._headers = tuple(record.headers) if record.headers else None
        self._timestamp = timestamp

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> Headers | None:
        return None if self._headers is None else list(self._headers)

    def timestamp(self) -> tuple[int, int]:
        return self._timestamp

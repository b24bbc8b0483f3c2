"""Reads a topic as it is now, in batches: from given offsets to the ends as of the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core import flux_headers
from flux.core.errors import BrokerError, Fault
from flux.core.message import Message
from flux.core.policy import Policy
from flux.core.ports import BEGINNING, AdminPort, Cluster, Record, System, TopicPartition
from flux.core.stage import Role, Stage
from flux.system import SYSTEM

MAX_RECORDS = 500
"""In one batch. With the client's buffer of some 16 MB that is all the memory that reading takes."""
TIMEOUT = 30.0
_POLL = 0.25


class Span(NamedTuple):
    """Offsets of one partition: from `start` on, below `end`."""

    start: int
    end: int


Spans = Mapping[int, Span]


@attrs.frozen
class ReadBatch:
    """Records of one partition in offset order; `reached`: all offsets of the span below it are read."""

    partition: int
    records: list[Record]
    reached: int


def spans_of(admin: AdminPort, topic: str, since_ms: int | None = None) -> dict[int, Span]:
    """What the topic has now, by partition; with `since_ms` (milliseconds since the epoch) from the first record of
    that time on. Raises BrokerError."""
    starts = admin.offsets_at(topic, since_ms, REQUEST_TIMEOUT) if since_ms is not None else {}
    marks = admin.watermarks(topic, REQUEST_TIMEOUT)
    return {number: Span(max(starts.get(number, 0), mark.low), mark.high) for number, mark in marks.items()}


def count_offsets(spans: Spans) -> int:
    """Offsets: at least as many as records."""
    return sum(max(0, span.end - span.start) for span in spans.values())


def read(
    adapter: Cluster,
    topic: str,
    spans: Spans,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    timeout: float = TIMEOUT,
    system: System = SYSTEM,
) -> Iterator[ReadBatch]:
    """Yields the records of `spans` in batches, each partition in order, until all are read or `should_stop()`. Raises
    BrokerError: UNAVAILABLE when no record has come for `timeout` seconds."""
    open_ = {TopicPartition(topic, number): span.end for number, span in spans.items() if span.start < span.end}
    if not open_:
        return
    reader = adapter.reader({at: spans[at.partition].start for at in open_})
    last_data_at = system.monotonic()
    try:
        while open_ and not should_stop():
            polled = reader.poll(MAX_RECORDS, _POLL)
            for at in polled.out_of_range:
                reader.seek(at, BEGINNING)  # deleted meanwhile
            for batch in polled.batches:
                end = open_.get(batch.partition)
                if end is None:
                    continue
                last_data_at = system.monotonic()
                records = batch.records
                following = records[-1].offset() + 1
                if following >= end:
                    records = [record for record in records if record.offset() < end]
                    following = open_.pop(batch.partition)
                yield ReadBatch(batch.partition.partition, records, following)
            for at, reached in polled.reached.items():
                if at in open_ and reached >= open_[at]:
                    yield ReadBatch(at.partition, [], open_.pop(at))
            if open_ and system.monotonic() - last_data_at > timeout:
                at, end = next(iter(open_.items()))
                raise BrokerError(f"no record of {at} for {timeout:g} s, though it ends at {end}", Fault.UNAVAILABLE)
    finally:
        reader.close()


def read_one(
    adapter: Cluster, at: TopicPartition, offset: int, span: Span | None, *, system: System = SYSTEM
) -> Record | None:
    """The record at `offset`; None when the partition has none there (any more). `span`: what the partition has; None:
    there is no such partition. Raises BrokerError."""
    if span is None or not span.start <= offset < span.end:
        return None
    reader = adapter.reader({at: offset})
    until = system.monotonic() + TIMEOUT
    try:
        while system.monotonic() < until:
            polled = reader.poll(1, _POLL)
            for batch in polled.batches:
                record: Record = batch.records[0]
                return record if record.offset() == offset else None
            if polled.out_of_range or polled.reached:
                return None
    finally:
        reader.close()
    raise BrokerError(f"no answer from {at} for {TIMEOUT:g} s", Fault.UNAVAILABLE)


def message_of(record: Record, stage: Stage, policy: Policy, now_ms: int) -> Message:
    """The message as a worker of that stage has it, without its decoded value."""
    message = Message.of(record, None, flux_headers.of_main_topic())
    if stage.role is not Role.MAIN:
        message.place(flux_headers.read(message.headers, stage.number, now_ms, int(policy.max_delay * 1000)))
    return message

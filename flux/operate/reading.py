"""Reads a topic as it is now, in batches: from given offsets to the ends as of the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
Pieces = Mapping[int, Sequence[Span]]
"""By partition: in order, and not overlapping."""


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


def pieces_of(offsets: Sequence[int], span: Span) -> list[Span]:
    """What to read of a partition that has `span` to get the records at these offsets, which are in order: near ones
    together, as a seek takes longer than reading on."""
    pieces: list[Span] = []
    for offset in offsets:
        if not span.start <= offset < span.end:
            continue
        if pieces and offset - pieces[-1].end < MAX_RECORDS:
            pieces[-1] = Span(pieces[-1].start, offset + 1)
        else:
            pieces.append(Span(offset, offset + 1))
    return pieces


def read(
    adapter: Cluster,
    topic: str,
    spans: Spans,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    timeout: float = TIMEOUT,
    system: System = SYSTEM,
) -> Iterator[ReadBatch]:
    """As `read_pieces`, with one span of each partition."""
    pieces = {number: [span] for number, span in spans.items()}
    return read_pieces(adapter, topic, pieces, should_stop=should_stop, timeout=timeout, system=system)


def read_pieces(
    adapter: Cluster,
    topic: str,
    pieces: Pieces,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    timeout: float = TIMEOUT,
    system: System = SYSTEM,
) -> Iterator[ReadBatch]:
    """Yields the records of `pieces` in batches, each partition in order, until all are read or `should_stop()`. Raises
    BrokerError: UNAVAILABLE when no record has come for `timeout` seconds."""
    left = {TopicPartition(topic, n): [span for span in spans if span.start < span.end] for n, spans in pieces.items()}
    open_ = {at: spans for at, spans in left.items() if spans}
    if not open_:
        return
    reader = adapter.reader({at: spans[0].start for at, spans in open_.items()})
    last_data_at = system.monotonic()
    try:
        while open_ and not should_stop():
            polled = reader.poll(MAX_RECORDS, _POLL)
            for at in polled.out_of_range:
                reader.seek(at, BEGINNING)  # deleted meanwhile
            for batch in polled.batches:
                at, records = batch.partition, batch.records
                if at not in open_:
                    continue
                last_data_at = system.monotonic()
                yield from _taken(open_, at, records, records[-1].offset() + 1)
                if at in open_ and open_[at][0].start > records[-1].offset() + 1:
                    reader.seek(at, open_[at][0].start)
            for at, reached in polled.reached.items():
                if at in open_:
                    yield from _taken(open_, at, [], reached)
            if open_ and system.monotonic() - last_data_at > timeout:
                at, spans = next(iter(open_.items()))
                why = f"no record of {at} for {timeout:g} s, though it ends at {spans[0].end}"
                raise BrokerError(why, Fault.UNAVAILABLE)
    finally:
        reader.close()


def _taken(
    open_: dict[TopicPartition, list[Span]], at: TopicPartition, records: Sequence[Record], following: int
) -> Iterator[ReadBatch]:
    """What is read of a partition below the offset `following`, piece by piece; removes from `open_` what is ended."""
    while at in open_ and (open_[at][0].start < following or not records):
        start, end = open_[at][0]
        inside = [each for each in records if start <= each.offset() < end]
        if following < end:
            if records:
                open_[at][0] = Span(following, end)
                yield ReadBatch(at.partition, inside, following)
            return
        del open_[at][0]
        if not open_[at]:
            del open_[at]
        yield ReadBatch(at.partition, inside, end)


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

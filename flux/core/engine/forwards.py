"""The forwarded copy of a record: what is written to the next stage, and what is left out if it does not fit.

A forwarded copy has the record's key, value and headers, in order. The flux headers are replaced, except the origin and
the first failure. All in-sync replicas acknowledge the copy before the record's offset is committed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import attrs

from flux.core import flux_headers
from flux.core.engine.verdicts import Undecodable, Verdict
from flux.core.error_text import MOST_CHARS, cause_of, cut, error_name, text_of
from flux.core.message import Message
from flux.core.ports import ProducerRecord
from flux.core.stage import Role, Stage

ErrorHeaders = Literal["full", "type"] | Callable[[BaseException], str]
"""How much of an error goes into headers: everything, its type, or its type and the callable's result."""

MAX_MESSAGE_CHARS = 1_000
MAX_TRACE_BYTES = 8_192
_RECORD_OVERHEAD = 160  # batch header (61), record fields and varints, with room to spare
_HEADER_OVERHEAD = 10  # two varint lengths
_COPY_OVERHEAD = 500  # headers and bookkeeping of an open forward
_AMPLE = 20_000  # bytes, more than all headers of flux's


@attrs.define(eq=False)
class Failure:
    """How a call failed. `trace`: the traceback as text, made where source files may be read."""

    error: BaseException
    trace: str = ""
    verdict: Verdict | None = None
    """What it means for the record; None: not decided yet."""
    at: float = 0.0
    """When a call that was noted in its run ended, in seconds by the engine's clock."""
    description: tuple[str, str, str] | None = None
    """(type, message, trace), as far as they may leave the process; None: not described yet."""


class Detail(enum.IntEnum):
    """How much of the optional headers a forwarded copy carries; one step down each time it is too large."""

    FULL = 2
    TYPE = 1
    NONE = 0


_FULL, _NONE, _DEAD = Detail.FULL, Detail.NONE, Role.DEAD  # an enum attribute costs more than a global


@attrs.define(eq=False)
class ForwardedCopy:
    """A record to be forwarded to the next stage."""

    message: Message
    target: Stage
    reason: str
    wait: float
    """Seconds in the target stage, counted from the write."""
    group: str
    failed_at: int
    """Milliseconds since the epoch."""
    error_type: str
    error_text: str
    error_trace: str
    called: bool = True
    """Whether the call of `message` was made; False: it had expired, or the stage stopped first."""
    detail: Detail = _FULL
    partitions: int = 0
    """Partition count of the target topic; 0: not known yet."""
    order: int | None = None
    """The version of the entry that announced it (`retry_order`)."""
    companion: ForwardedCopy | None = None
    """What is written in the same transaction, to another topic (`exactly_once`)."""

    @property
    def size(self) -> int:
        """About its bytes while it is open."""
        message = self.message
        return len(message.raw_value or b"") + len(message.key or b"") + len(self.error_trace) + _COPY_OVERHEAD

    def producer_record(self, now_ms: int, limit: int | None) -> ProducerRecord:
        """The record to write now. `limit`: largest record of the target topic in bytes; None: not known."""
        message = self.message
        value, key = message.raw_value, message.key
        own = message.headers
        headers = [pair for pair in own if not pair[0].startswith(flux_headers.PREFIX)] if own else []
        self._add_flux_headers(headers, now_ms)
        detail = self.detail
        if detail is not _NONE:
            headers.append(_of_type(self.error_type))
        if detail is _FULL:
            room = _room(limit, key, value, headers, len(own))
            if self.error_text and room > 0:
                text = _cut(self.error_text, room)
                headers.append((flux_headers.ERROR_MESSAGE, text))
                room -= len(text) + len(flux_headers.ERROR_MESSAGE) + _HEADER_OVERHEAD
            if self.error_trace and room > 0:
                headers.append(_of_trace(self.error_trace, min(room, MAX_TRACE_BYTES)))
        return ProducerRecord(
            value, key, headers, message.partition % self.partitions if self.partitions else None, now_ms
        )

    def _add_flux_headers(self, headers: list[tuple[str, bytes | None]], now_ms: int) -> None:
        message, target = self.message, self.target
        parsed = message.flux_headers
        topic, partition, offset = message.origin
        born, failed_at = message.origin_timestamp, self.failed_at
        headers += _of_attempt(target.number, parsed.attempts + 1 if self.called else parsed.attempts)
        if target.role is not _DEAD:
            headers.append(_of_time(flux_headers.DUE, now_ms + round(self.wait * 1000)))
        headers += _of_place(self.group, topic, partition)
        headers.append((flux_headers.ORIGIN_OFFSET, b"%d" % offset))
        if born is not None:
            headers.append((flux_headers.ORIGIN_TIMESTAMP, b"%d" % born))
        first = failed_at if parsed.first_failed_at is None else parsed.first_failed_at
        headers += (
            _of_time(flux_headers.FIRST_FAILED_AT, first),
            _of_time(flux_headers.FAILED_AT, failed_at),
            _of_text(flux_headers.REASON, self.reason),
        )
        if parsed.replays:
            headers.append((flux_headers.REPLAYS, b"%d" % parsed.replays))
        if self.order is not None:
            headers.append((flux_headers.ORDER, b"%d" % self.order))


def describe(failure: Failure, setting: ErrorHeaders) -> tuple[str, str, str]:
    """(type, message, trace) of a failure, as far as `setting` allows them to leave the process."""
    error = failure.error
    cause = cause_of(error) if issubclass(type(error), Undecodable) else None
    cause = error if cause is None else cause
    name = error_name(type(cause))
    if setting == "type":
        return name, "", ""
    if callable(setting):
        try:
            return name, cut(str(setting(error)), MOST_CHARS), ""
        except KeyboardInterrupt:
            raise
        except BaseException as broken:
            return name, f"(error_headers raised {error_name(type(broken))})", ""
    return name, text_of(cause), failure.trace


def _room(
    limit: int | None, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], own: int
) -> int:
    """Bytes left for the headers about the error. `own`: number of headers that the record came with."""
    if limit is None:
        return MAX_TRACE_BYTES
    left = limit - len(key or b"") - len(value or b"")
    if not own and left > _AMPLE:
        return left
    used = _RECORD_OVERHEAD + len(headers) * _HEADER_OVERHEAD
    for name, data in headers:
        used += len(name) if name.isascii() else len(name.encode())
        if data:
            used += len(data)
    return max(left - used - 2 * (len(flux_headers.ERROR_TRACE) + _HEADER_OVERHEAD), 0)


@lru_cache(1000)
def _of_text(name: str, text: str) -> tuple[str, bytes]:
    """A header with one of few values: cached."""
    return name, text.encode()


@lru_cache(1000)
def _of_type(kind: str) -> tuple[str, bytes]:
    return flux_headers.ERROR_TYPE, _cut(kind, 250)


@lru_cache(10_000)
def _of_place(group: str, topic: str, partition: int) -> tuple[tuple[str, bytes], ...]:
    return (
        _of_text(flux_headers.GROUP, group),
        _of_text(flux_headers.ORIGIN_TOPIC, topic),
        (flux_headers.ORIGIN_PARTITION, b"%d" % partition),
    )


@lru_cache(1000)
def _of_attempt(stage: int, attempts: int) -> tuple[tuple[str, bytes], ...]:
    return (flux_headers.STAGE, b"%d" % stage), (flux_headers.ATTEMPTS, b"%d" % attempts)


@lru_cache(1000)
def _of_time(name: str, ms: int) -> tuple[str, bytes]:
    """A time that records which failed together share."""
    return name, b"%d" % ms


@lru_cache(1000)
def _of_trace(trace: str, room: int) -> tuple[str, bytes]:
    """The end of the traceback, which is its most useful part."""
    data = trace.encode("utf-8", "replace")[-room:]
    return flux_headers.ERROR_TRACE, data.decode("utf-8", "ignore").encode()


def _cut(text: str, room: int) -> bytes:
    data = text[:MAX_MESSAGE_CHARS].encode("utf-8", "replace")
    return data if len(data) <= room else data[:room].decode("utf-8", "ignore").encode()

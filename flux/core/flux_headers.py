"""The headers that flux adds to a record when it forwards it: its origin, its attempts, when it is due.

They are read in retry and dead-letter topics only, where flux alone writes. Each header is checked on its own: an
invalid one counts as absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from flux.core.named_work import Kind, NamedWork

PREFIX = "flux-"
STAGE = "flux-stage"
ATTEMPTS = "flux-attempts"
DUE = "flux-due"
GROUP = "flux-group"
ORIGIN_TOPIC = "flux-origin-topic"
ORIGIN_PARTITION = "flux-origin-partition"
ORIGIN_OFFSET = "flux-origin-offset"
ORIGIN_TIMESTAMP = "flux-origin-timestamp"
FIRST_FAILED_AT = "flux-first-failed-at"
FAILED_AT = "flux-failed-at"
REASON = "flux-reason"
ERROR_TYPE = "flux-error-type"
ERROR_MESSAGE = "flux-error-message"
ERROR_TRACE = "flux-error-trace"
REPLAYS = "flux-replays"
ID = "flux-id"
CANCELLED = "flux-cancelled"
SCHEDULE = "flux-schedule"
TICK = "flux-tick"
LAST_TICK = "flux-last-tick"
ORDER = "flux-order"

_TOPIC = re.compile(rb"[a-zA-Z0-9._-]{1,249}\Z")
_DIGITS = 19
_NUMBER = re.compile(rb"-?[0-9]{1,%d}\Z" % _DIGITS)
_MOST = 1_000_000  # attempts or replays: flux never counts further
_SKEW_MS = 3_600_000  # how far the writer's clock may be ahead: its longest wait must not count as forged here
_INT32 = 2**31 - 1
_INT64 = 2**63 - 1
_NAMES: dict[str, Kind] = {ID: "id", CANCELLED: "cancelled", SCHEDULE: "schedule"}
"""Headers whose value is a name; the last header of a record that has one."""

_RANGES: dict[str, tuple[int, int | None]] = {
    ATTEMPTS: (0, _MOST),  # 0: replayed, with its attempt counter reset
    DUE: (0, None),
    ORIGIN_TOPIC: (0, 0),
    ORIGIN_PARTITION: (0, _INT32),
    ORIGIN_OFFSET: (0, _INT64),
    ORIGIN_TIMESTAMP: (-1, _INT64),
    FIRST_FAILED_AT: (0, None),
    REPLAYS: (0, _MOST),
    TICK: (0, _INT64),
    ORDER: (0, _INT64),
}
"""The lowest and highest valid value of each header that is read; None: the longest wait from now."""


@attrs.frozen
class FluxHeaders:
    """The values of a record's flux headers. Times in milliseconds since the epoch; None: not known."""

    stage: int
    attempts: int
    """Calls that were made for this record in earlier stages and in place."""
    due: int | None = None
    origin: tuple[str, int, int] | None = None
    origin_timestamp: int | None = None
    first_failed_at: int | None = None
    replays: int = 0
    order: int | None = None
    """The version of the entry that announced this copy (`retry_order`); None: it takes no part in an order."""
    ignored: tuple[str, ...] = ()
    """The names of headers that were present but invalid."""
    named: NamedWork | None = attrs.field(default=None, eq=False)
    """Set for a record with an id, a tick of a schedule, or a cancellation."""


_OF_MAIN_TOPIC = FluxHeaders(stage=0, attempts=0)


def of_main_topic() -> FluxHeaders:
    """The values for every record of the main topic, whatever its headers are."""
    return _OF_MAIN_TOPIC


@attrs.frozen
class UnreadHeaders:
    """Reads the flux headers of records of stage 1, 2, … on first use: most records are processed without them. `tell`
    is called with a message and the names of its invalid headers, on any thread."""

    stage: int
    now_ms: int
    max_delay_ms: int
    tell: Callable[[Any, tuple[str, ...]], None]

    def read(self, headers: Sequence[tuple[str, bytes | None]]) -> FluxHeaders:
        return read(headers, self.stage, self.now_ms, self.max_delay_ms)

    def due(self, headers: Sequence[tuple[str, bytes | None]]) -> int | None:
        """The due time in a record's headers; None if it is not plainly valid, or the record has a name, and `read` has
        to decide."""
        if headers and headers[-1][0] in _NAMES:
            return None
        for name, value in reversed(headers):
            if name == DUE:
                if value is not None and value.isdigit() and len(value) <= _DIGITS:
                    due = int(value)
                    if due <= self.now_ms + self.max_delay_ms + _SKEW_MS:
                        return due
                break
        return None


def read(headers: Sequence[tuple[str, bytes | None]], stage: int, now_ms: int, max_delay_ms: int) -> FluxHeaders:
    """The flux headers of a record that was read in `stage` (1, 2, …).

    A due time more than `max_delay_ms` and an hour (for clock skew) after `now_ms` counts as absent. A record without
    an attempt counter (the Ruby library writes none) has had one attempt in each earlier stage.
    """
    found = {name: value for name, value in headers if name in _RANGES}
    latest = now_ms + max_delay_ms + _SKEW_MS
    numbers: dict[str, int] = {}
    topic: str | None = None
    ignored: tuple[str, ...] = ()
    for name, value in found.items():
        if value is not None:
            if name == ORIGIN_TOPIC:
                if _TOPIC.match(value):
                    topic = value.decode("ascii")
                    continue
            # the first test is cheap and mostly enough
            elif (value.isdigit() and len(value) <= _DIGITS) or _NUMBER.match(value):
                low, high = _RANGES[name]
                number = int(value)
                if low <= number <= (high if high is not None else latest):
                    numbers[name] = number
                    continue
        ignored += (name,)
    get = numbers.get
    partition, offset = get(ORIGIN_PARTITION), get(ORIGIN_OFFSET)
    return FluxHeaders(
        stage,
        get(ATTEMPTS, stage),
        get(DUE),
        None if topic is None or partition is None or offset is None else (topic, partition, offset),
        get(ORIGIN_TIMESTAMP),
        get(FIRST_FAILED_AT),
        get(REPLAYS, 0),
        get(ORDER),
        ignored,
        _named(headers, get(TICK, 0)),
    )


def _named(headers: Sequence[tuple[str, bytes | None]], tick: int) -> NamedWork | None:
    name, value = headers[-1] if headers else ("", None)
    kind = _NAMES.get(name)
    return None if kind is None or not value else NamedWork(kind, value.decode("utf-8", "replace"), tick)

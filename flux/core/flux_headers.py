"""The headers that flux adds to a record it moves: where it came from, how often it was tried, when it is due.

They are read in retry and dead-letter topics only, which flux alone writes. Each is believed on its own: one that
cannot be understood is as if it were not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

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

_TOPIC = re.compile(rb"[a-zA-Z0-9._-]{1,249}\Z")
_DIGITS = 19
_NUMBER = re.compile(rb"-?[0-9]{1,%d}\Z" % _DIGITS)
_MOST = 1_000_000  # attempts or replays beyond this were never counted by flux
_SKEW_MS = 3_600_000  # what two clocks may differ by: the longest wait, written here, is no forgery there
_INT32 = 2**31 - 1
_INT64 = 2**63 - 1

_RANGES: dict[str, tuple[int, int | None]] = {
    ATTEMPTS: (0, _MOST),  # 0: replayed, to be tried anew
    DUE: (0, None),
    ORIGIN_TOPIC: (0, 0),
    ORIGIN_PARTITION: (0, _INT32),
    ORIGIN_OFFSET: (0, _INT64),
    ORIGIN_TIMESTAMP: (-1, _INT64),
    FIRST_FAILED_AT: (0, None),
    REPLAYS: (0, _MOST),
}
"""What each header that is read may be; None: a time, up to the longest wait from now."""


@attrs.frozen
class Trail:
    """What is known of a record's way here. Times in milliseconds since the epoch; None: not known."""

    stage: int
    attempts: int
    """Calls that this work has had before."""
    due: int | None = None
    origin: tuple[str, int, int] | None = None
    origin_timestamp: int | None = None
    first_failed_at: int | None = None
    replays: int = 0
    ignored: tuple[str, ...] = ()
    """The names of headers that were there and could not be understood."""


_START = Trail(stage=0, attempts=0)


def start() -> Trail:
    """The trail of every record of the main topic, whatever its headers say."""
    return _START


@attrs.frozen
class UnreadHeaders:
    """The trail of a record of stage 1, 2, …, which is read when somebody asks: most records are done without. `tell`
    is given a record's headers that could not be understood, on any thread."""

    stage: int
    now_ms: int
    max_delay_ms: int
    tell: Callable[[Any, tuple[str, ...]], None]

    def read(self, headers: Iterable[tuple[str, bytes | None]]) -> Trail:
        return read(headers, self.stage, self.now_ms, self.max_delay_ms)

    def due(self, headers: Sequence[tuple[str, bytes | None]]) -> int | None:
        """The time in a record's headers; None when `read` has to say what it is."""
        for name, value in reversed(headers):
            if name == DUE:
                if value is not None and value.isdigit() and len(value) <= _DIGITS:
                    due = int(value)
                    if due <= self.now_ms + self.max_delay_ms + _SKEW_MS:
                        return due
                break
        return None


def read(headers: Iterable[tuple[str, bytes | None]], stage: int, now_ms: int, max_delay_ms: int) -> Trail:
    """The trail of a record that was read in `stage` (1, 2, …).

    A due time beyond `now_ms + max_delay_ms`, and an hour for clocks that differ, counts as absent. Without a count of
    attempts (the Ruby library writes none) it had one in each stage before.
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
            elif (value.isdigit() and len(value) <= _DIGITS) or _NUMBER.match(
                value
            ):  # mostly the first, which is cheap
                low, high = _RANGES[name]
                number = int(value)
                if low <= number <= (high if high is not None else latest):
                    numbers[name] = number
                    continue
        ignored += (name,)
    get = numbers.get
    partition, offset = get(ORIGIN_PARTITION), get(ORIGIN_OFFSET)
    return Trail(
        stage,
        get(ATTEMPTS, stage),
        get(DUE),
        None if topic is None or partition is None or offset is None else (topic, partition, offset),
        get(ORIGIN_TIMESTAMP),
        get(FIRST_FAILED_AT),
        get(REPLAYS, 0),
        ignored,
    )

"""The headers that flux adds to a record it moves: where it came from, how often it was tried, when it is due.

They are read in retry and dead-letter topics only, which flux alone writes. Each is believed on its own: one that
cannot be understood is as if it were not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

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
_NUMBER = re.compile(rb"-?[0-9]{1,19}\Z")
_MOST = 1_000_000  # attempts or replays beyond this were never counted by flux
_SKEW_MS = 3_600_000  # what two clocks may differ by: the longest wait, written here, is no forgery there
_INT32 = 2**31 - 1
_INT64 = 2**63 - 1

T = TypeVar("T")


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


def start() -> Trail:
    """The trail of every record of the main topic, whatever its headers say."""
    return Trail(stage=0, attempts=0)


def read(headers: Iterable[tuple[str, bytes | None]], stage: int, now_ms: int, max_delay_ms: int) -> Trail:
    """The trail of a record that was read in `stage` (1, 2, …).

    A due time beyond `now_ms + max_delay_ms`, and an hour for clocks that differ, counts as absent. Without a count of
    attempts (the Ruby library writes none) it had one in each stage before.
    """
    found = {name: value for name, value in headers if name.startswith(PREFIX)}
    ignored: list[str] = []

    def take(name: str, parse: Callable[[bytes], T | None]) -> T | None:
        value = found.get(name)
        if name not in found:
            return None
        result = parse(value) if value is not None else None
        if result is None:
            ignored.append(name)
        return result

    latest = now_ms + max_delay_ms + _SKEW_MS
    topic = take(ORIGIN_TOPIC, lambda v: v.decode("ascii") if _TOPIC.match(v) else None)
    partition = take(ORIGIN_PARTITION, _number(0, _INT32))
    offset = take(ORIGIN_OFFSET, _number(0, _INT64))
    known = topic is not None and partition is not None and offset is not None
    attempts = take(ATTEMPTS, _number(1, _MOST))
    return Trail(
        stage=stage,
        attempts=stage if attempts is None else attempts,
        due=take(DUE, _number(0, latest)),
        origin=(topic, partition, offset) if known else None,  # type: ignore[arg-type]
        origin_timestamp=take(ORIGIN_TIMESTAMP, _number(-1, _INT64)),
        first_failed_at=take(FIRST_FAILED_AT, _number(0, latest)),
        replays=take(REPLAYS, _number(0, _MOST)) or 0,
        ignored=tuple(ignored),
    )


def _number(low: int, high: int) -> Callable[[bytes], int | None]:
    def parse(value: bytes) -> int | None:
        if not _NUMBER.match(value):
            return None
        number = int(value)
        return number if low <= number <= high else None

    return parse

"""A history: what happened to the records of one trial, a JSON line for each event.

Calls are written by the processes that make them, acknowledgements by the producer, deaths and deletions by whoever
causes them, when they happen; what topics hold, and each commit, is read from the cluster afterwards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import attrs


class Moment(NamedTuple):
    """Nanoseconds of both clocks of the one machine: only the wall clock is also the brokers'."""

    wall: int
    mono: int


def now() -> Moment:
    return Moment(time.time_ns(), time.monotonic_ns())


def _moment(value: Iterable[int]) -> Moment:
    return Moment(*value)


def _pairs(value: Iterable[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(pair) for pair in value)


@attrs.frozen
class Produced:
    """A record of the main topic was acknowledged. `id`: what makes it unique, the same in all stages."""

    id: int
    partition: int
    offset: int
    at: Moment = attrs.field(converter=_moment)


@attrs.frozen
class Began:
    call: int
    """Unique within its process."""
    pid: int
    id: int
    stage: int
    partition: int
    offset: int
    key: str | None
    due: int
    """Milliseconds since the epoch; 0 in stage 0."""
    at: Moment = attrs.field(converter=_moment)


@attrs.frozen
class Ended:
    """Written before the call returns or raises."""

    call: int
    pid: int
    outcome: str
    next: int | None
    """The stage that the record has to go to; None: nowhere, it is done."""
    after: float
    """Seconds that it has to wait there."""
    output: bool
    """Whether it has produced a record, which has to be acknowledged. If it cannot be, the call fails."""
    at: Moment = attrs.field(converter=_moment)


@attrs.frozen
class Died:
    """A process was killed."""

    pid: int
    at: Moment = attrs.field(converter=_moment)


@attrs.frozen
class Deleted:
    """A topic is about to be deleted, or its records below some offsets, each (partition, offset)."""

    stage: int
    below: tuple[tuple[int, int], ...] | None = attrs.field(converter=attrs.converters.optional(_pairs))
    at: Moment = attrs.field(converter=_moment)


@attrs.frozen
class Stored:
    """What a topic holds at the end."""

    id: int
    stage: int
    partition: int
    offset: int
    stamp: int
    """Milliseconds since the epoch, at or before the acknowledgement."""
    dead: bool = False
    """Whether it is a dead letter, which nobody is to call."""


@attrs.frozen
class Output:
    """What a call has produced, as its topic holds it."""

    id: int
    stamp: int


@attrs.frozen
class Committed:
    stage: int
    partition: int
    offset: int
    metadata: str
    stamp: int
    """When the group's coordinator stored it, in milliseconds since the epoch."""


Timed = Produced | Began | Ended | Died | Deleted
Event = Timed | Stored | Output | Committed
_KINDS: Mapping[str, Any] = {
    kind.__name__.lower(): kind for kind in (Produced, Began, Ended, Died, Deleted, Stored, Output, Committed)
}


def line(event: Event) -> str:
    fields = attrs.asdict(event, recurse=False)
    return json.dumps({"event": type(event).__name__.lower(), **fields}, separators=(",", ":")) + "\n"


def write(path: Path, events: Iterable[Event]) -> None:
    with path.open("w") as file:
        file.writelines(line(event) for event in events)


def read(path: Path) -> Iterator[Event]:
    """A last line that a killed process has not finished is left out."""
    with path.open() as file:
        for text in file:
            if text.endswith("\n"):
                fields = json.loads(text)
                yield _KINDS[fields.pop("event")](**fields)


@attrs.frozen
class Call:
    began: Began
    ended: Ended | None


def calls(events: Iterable[Event]) -> list[Call]:
    """In the order in which they began."""
    began: list[Began] = []
    ended: dict[tuple[int, int], Ended] = {}
    for event in events:
        if isinstance(event, Began):
            began.append(event)
        elif isinstance(event, Ended):
            ended[event.pid, event.call] = event
    began.sort(key=lambda event: event.at.mono)
    return [Call(event, ended.get((event.pid, event.call))) for event in began]

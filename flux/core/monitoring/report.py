"""The status report of a process: a JSON object in a compacted topic of its cluster.

A report has no values, headers or settings, and of keys only the beginning. Durations are in seconds before the report
was made, so that clocks need not agree. Readers ignore unknown versions. Fields with a default were added later:
reports of an older flux do not have them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import attrs
from attrs.validators import deep_mapping, instance_of, optional

VERSION = 1
TOPIC = "flux-reports"
EVERY = 5.0
"""Seconds between two reports of a process."""
FRESH = 4
"""A report older than this many intervals is outdated: its process was killed, or cannot write."""
MOST_CALLS = 20
"""The oldest calls, and open records, of a stage that a report lists."""
MOST_KEY = 100
MOST_LIMITED = 10
"""The hosts or tenants with the most records that wait, which a report lists."""
MOST_NAMES = 20
"""The paused hosts or tenants that a report lists."""
IN_PLACE = "in place"
"""State of a record that waits for a retry in place."""

T = TypeVar("T")
_NUMBER = instance_of((int, float))
_TEXT = instance_of(str)
_INT = instance_of(int)


@attrs.frozen
class Call:
    """A running call. `seconds`: its duration until the report was made; a watcher sees its start some ms late."""

    partition: int = attrs.field(validator=_INT)
    offset: int = attrs.field(validator=_INT)
    key: str | None = attrs.field(validator=optional(_TEXT))
    attempt: int = attrs.field(validator=_INT)
    seconds: float = attrs.field(validator=_NUMBER)
    records: int = attrs.field(default=1, validator=_INT)
    """Number of records of the call; this is the first."""


@attrs.frozen
class Open:
    """A record whose call has ended but that is not done: it waits for an acknowledgement or a retry in place."""

    partition: int = attrs.field(validator=_INT)
    offset: int = attrs.field(validator=_INT)
    key: str | None = attrs.field(validator=optional(_TEXT))
    attempt: int = attrs.field(validator=_INT)
    target: str = attrs.field(validator=_TEXT)
    """The topic that it is forwarded to, its own for a retry in place; empty: it waits for what its call produced."""
    state: str = attrs.field(validator=_TEXT)
    failures: int = attrs.field(validator=_INT)
    seconds: float = attrs.field(validator=_NUMBER)
    refused: str = attrs.field(default="", validator=_TEXT)
    """Why the topic refuses the forwarded copy, and the fix."""


@attrs.frozen
class Paused:
    """The stage makes no calls in this process: its task is paused by an outage, or somebody has paused it. `seconds`:
    for how long."""

    error: str = attrs.field(validator=_TEXT)
    """The type of what was raised; or who has paused it."""
    seconds: float = attrs.field(validator=_NUMBER)
    tried_in: float | None = attrs.field(validator=optional(_NUMBER))
    """Seconds until one record is tried; None: its call is running, or nothing is tried."""
    commanded: bool = attrs.field(default=False, validator=instance_of(bool))
    """Whether somebody has paused it."""
    ends_in: float | None = attrs.field(default=None, validator=optional(_NUMBER))
    """Seconds until such a pause ends; None: it does not end by itself."""
    why: str = attrs.field(default="", validator=_TEXT)
    name: str = attrs.field(default="", validator=_TEXT)
    """The host or tenant whose calls alone are paused; empty: all calls are."""


@attrs.frozen
class ScheduleReport:
    """The last tick of a schedule that was due in this process. `tick`, `started`: milliseconds since the epoch;
    `called`: False: it was too late. `missed`, `not_called`: ticks since the start of the process."""

    schedule: str = attrs.field(validator=_TEXT)
    tick: int = attrs.field(validator=_INT)
    started: int = attrs.field(validator=_INT)
    called: bool = attrs.field(validator=instance_of(bool))
    missed: int = attrs.field(validator=_INT)
    not_called: int = attrs.field(validator=_INT)


@attrs.frozen
class Limited:
    """Records in memory that wait for a limit of their name, or for the end of its pause."""

    setting: str = attrs.field(validator=_TEXT)
    """`rate_limit_key`, `concurrency_key` or `pause_when`."""
    name: str = attrs.field(validator=_TEXT)
    records: int = attrs.field(validator=_INT)


@attrs.frozen
class RateSet:
    """Somebody has set the rate limit of the task in this process."""

    rate: float | None = attrs.field(validator=optional(_NUMBER))
    """Calls a second; None: no limit."""
    by: str = attrs.field(validator=_TEXT)
    ends_in: float | None = attrs.field(validator=optional(_NUMBER))
    """Seconds; None: it does not end by itself."""


@attrs.frozen
class StageReport:
    """One stage of one task in one process. `done` … `dead` count since its start; rates are of the last interval."""

    task: str = attrs.field(validator=_TEXT)
    stage: int = attrs.field(validator=_INT)
    topic: str = attrs.field(validator=_TEXT)
    group: str = attrs.field(validator=_TEXT)
    partitions: str = attrs.field(validator=_TEXT)
    """Assigned partitions, such as "0-3,7"."""
    done: int = attrs.field(validator=_INT)
    failed: int = attrs.field(validator=_INT)
    retried: int = attrs.field(validator=_INT)
    dead: int = attrs.field(validator=_INT)
    done_rate: float = attrs.field(validator=_NUMBER)
    """Records per second."""
    failed_rate: float = attrs.field(validator=_NUMBER)
    waiting: int = attrs.field(validator=_INT)
    """Records in memory that are not due."""
    due_in: float | None = attrs.field(validator=optional(_NUMBER))
    """Seconds until the first of them is due; negative: overdue."""
    in_flight: int = attrs.field(validator=_INT)
    calls: tuple[Call, ...]
    on_their_way: int = attrs.field(validator=_INT)
    open: tuple[Open, ...]
    in_place: int = attrs.field(default=0, validator=_INT)
    """Records that wait for a retry in place."""
    paused: Paused | None = attrs.field(default=None, validator=optional(instance_of(Paused)))
    """An outage pauses all stages of a task."""
    paused_names: tuple[Paused, ...] = ()
    """Hosts or tenants whose calls are paused, the longest first: the same for all stages of a task."""
    limited: tuple[Limited, ...] = ()
    """The names with the most records that wait for them."""
    limited_records: int = attrs.field(default=0, validator=_INT)
    """Of all names."""
    rate_set: RateSet | None = attrs.field(default=None, validator=optional(instance_of(RateSet)))
    """The same for all stages of a task."""
    done_to: Mapping[str, int] = attrs.field(factory=dict, eq=False, validator=deep_mapping(_TEXT, _INT))
    """By partition, the offset below which all is done, where it is not committed yet."""
    schedules: tuple[ScheduleReport, ...] = ()
    """Of the first retry stage."""


def process_key(host: str, pid: int, started: int) -> bytes:
    """Unique to each start of a process. `started`: milliseconds since the epoch."""
    return f"{host}/{pid}/{started}".encode("utf-8", "replace")


def process_name(host: str, pid: int, process: int | None) -> str:
    """For people. `process`: its number with --processes."""
    return f"{host} pid {pid}" + ("" if process is None else f" (process {process})")


@attrs.frozen
class Report:
    host: str = attrs.field(validator=_TEXT)
    pid: int = attrs.field(validator=_INT)
    process: int | None = attrs.field(validator=optional(_INT))
    """Its number with --processes."""
    version: str = attrs.field(validator=_TEXT)
    started: int = attrs.field(validator=_INT)
    """Milliseconds since the epoch."""
    every: float = attrs.field(validator=_NUMBER)
    """Seconds until the next report."""
    memory: int | None = attrs.field(validator=optional(_INT))
    """Resident bytes; None: not known."""
    stages: tuple[StageReport, ...]
    control: bool = attrs.field(default=False, validator=instance_of(bool))
    """Whether it takes commands."""

    @property
    def key(self) -> bytes:
        """The key of its record: unique to each start of a process."""
        return process_key(self.host, self.pid, self.started)

    @property
    def name(self) -> str:
        """The process's name in output for people."""
        return process_name(self.host, self.pid, self.process)

    def to_json(self) -> bytes:
        return json.dumps({"v": VERSION, **attrs.asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Report | None:
        """None if it is damaged, foreign or of another version. Unknown fields are ignored."""
        try:
            found = json.loads(data)
            if not isinstance(found, dict) or found.get("v") != VERSION:
                return None
            stages = []
            for stage in found["stages"]:
                calls = tuple(_made(Call, each) for each in stage["calls"])
                open_ = tuple(_made(Open, each) for each in stage["open"])
                paused = stage.get("paused")
                paused = None if paused is None else _made(Paused, paused)
                rate = stage.get("rate_set")
                rate = None if rate is None else _made(RateSet, rate)
                names = tuple(_made(Paused, each) for each in stage.get("paused_names", ()))
                schedules = tuple(_made(ScheduleReport, each) for each in stage.get("schedules", ()))
                more = {"calls": calls, "open": open_, "paused": paused, "paused_names": names, "schedules": schedules}
                limited = tuple(_made(Limited, each) for each in stage.get("limited", ()))
                stages.append(_made(StageReport, stage, **more, limited=limited, rate_set=rate))
            return _made(cls, found, stages=tuple(stages))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


def _made(kind: type[T], data: Mapping[str, Any], **more: Any) -> T:
    known = {**data, **more}
    fields = attrs.fields(kind)  # type: ignore[arg-type]
    named = [field.name for field in fields if field.name in known or field.default is attrs.NOTHING]
    return kind(**{name: known[name] for name in named})


def shown_key(key: bytes | None) -> str | None:
    """The key's beginning as UTF-8, other bytes as \\xNN."""
    if key is None:
        return None
    text = key[: MOST_KEY + 1].decode("utf-8", "backslashreplace")
    return text if len(text) <= MOST_KEY else f"{text[: MOST_KEY - 1]}…"


def ranges_of(numbers: Iterable[int]) -> str:
    """Numbers as ranges, such as "0-3,7"."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def within(ranges: str, number: int) -> bool:
    """Whether `number` is in `ranges`, as made by `ranges_of`."""
    for part in ranges.split(","):
        low, _, high = part.partition("-")
        if low.isdecimal() and int(low) <= number <= int(high if high.isdecimal() else low):
            return True
    return False

"""What a test gives the kit: a mistake is refused in one line that says what to give."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import TypeGuard

from flux.core.errors import ConfigurationError
from flux.core.validation import check_whole, is_number, plain, shown
from flux.operate.dlq.filters import Filter
from flux.producer import Producer
from flux.task import Task
from flux.testing.records import StoredRecord

_LATEST = 253_402_300_799
"""The end of the year 9999, in seconds since the epoch."""

AnyTask = type[Task] | Task
AnyTopic = str | type[Producer] | Producer | AnyTask


def _is_a(of: object, *kinds: type) -> bool:
    """Whether it is one of these classes, or an instance of one."""
    return issubclass(of if isinstance(of, type) else type(of), kinds)


def has_topic(of: object) -> TypeGuard[AnyTask | type[Producer] | Producer]:
    return _is_a(of, Task, Producer)


def check_task(task: object) -> None:
    """Raises ConfigurationError, as the others do."""
    if not _is_a(task, Task):
        raise ConfigurationError(f"the kit takes a Task class or an instance of one here, not {shown(task)}")


def topic_name(topic: object) -> str:
    name = topic.topic if has_topic(topic) else topic
    if not isinstance(name, str):
        raise ConfigurationError(f"the kit takes a topic's name, a task or a producer here, not {shown(topic)}")
    return str(plain(name))


def place_of(record: object) -> tuple[int, int]:
    """Its partition and offset."""
    if not isinstance(record, StoredRecord):
        raise ConfigurationError(f"the kit takes a record that it has returned here, not {shown(record)}")
    return record.partition, record.offset


def start_of(start: object) -> float:
    """Seconds since the epoch."""
    if isinstance(start, datetime):
        start = start.timestamp()
    if start is not None and not is_number(start, 0, _LATEST):
        raise ConfigurationError(f"start = {shown(start)}: give seconds since the epoch, or a datetime")
    return float(int(time.time())) if start is None else float(start)  # type: ignore[arg-type]


def seed_of(seed: object) -> int:
    if type(seed) is not int:
        raise ConfigurationError(f"seed = {shown(seed)}: give a whole number")
    return seed


def rate_text(rate: object) -> str:
    return rate if isinstance(rate, str) else shown(rate)


def check_partition(partition: object) -> None:
    if partition is not None:
        check_whole("partition", partition, 0)


def chosen(dead_letters: Sequence[StoredRecord]) -> Filter:
    """None: all."""
    return Filter(only=frozenset(map(place_of, dead_letters)) if dead_letters else None)

"""What the engine asks its driver for."""

from __future__ import annotations

import enum
from collections.abc import Hashable

import attrs

from flux.core.engine.runs import Run
from flux.core.message import Message
from flux.core.ports import CommittedOffset, TopicPartition


class Level(enum.IntEnum):
    """As in the standard library's logging."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@attrs.frozen
class Notice:
    """A line for the log, and what it is about, where that is one record or one partition. `kind`: of all lines of one
    kind there is one a minute; None: each."""

    level: Level
    text: str
    about: Message | TopicPartition | None = None
    kind: Hashable = None


@attrs.frozen
class Stall:
    """A partition, or the stage, that has work and gets nowhere. `run`: the one that it waits for."""

    text: str
    run: Run | None = None
    about: TopicPartition | None = None


@attrs.frozen
class Turn:
    """What the poller does next, in this order."""

    pause: tuple[TopicPartition, ...] = ()
    resume: tuple[TopicPartition, ...] = ()
    reset: tuple[TopicPartition, ...] = ()
    """Partitions whose position is out of range: find their watermarks, and tell `Engine.reset`."""
    commit: dict[TopicPartition, CommittedOffset] | None = None
    poll: int = 0
    """How many records to ask for; 0: none are wanted, wait for a fact instead."""
    timeout: float = 0.0
    """Seconds to wait for records, or for a fact."""

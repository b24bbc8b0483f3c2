"""What the engine returns to its driver."""

from __future__ import annotations

import enum
from collections.abc import Hashable

import attrs

from flux.core.engine.runs import Run
from flux.core.limits.name_limits import NamePaused, NameResumed
from flux.core.message import Message
from flux.core.ports import CommittedOffset, TopicPartition


class Level(enum.IntEnum):
    """As in the standard library's logging."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@attrs.frozen
class LogEvent:
    """A log line, and the record or partition that it is about. `kind`: one line of each kind is logged a minute; None:
    every line. `news`: what it says, if hooks are notified of that."""

    level: Level
    text: str
    about: Message | TopicPartition | None = None
    kind: Hashable = None
    news: NamePaused | NameResumed | None = None

    @classmethod
    def of_name(cls, level: Level, news: NamePaused | NameResumed) -> LogEvent:
        return cls(level, news.text, kind=news.kind, news=news)


@attrs.frozen
class Stall:
    """A partition that has records and makes no progress. `run`: the run that it waits for."""

    text: str
    run: Run | None = None
    about: TopicPartition | None = None


@attrs.frozen
class Turn:
    """What the poll loop does next, in this order."""

    pause: tuple[TopicPartition, ...] = ()
    resume: tuple[TopicPartition, ...] = ()
    reset: tuple[TopicPartition, ...] = ()
    """Partitions whose fetch position is out of range: query their watermarks and call `Engine.reset`."""
    commit: dict[TopicPartition, CommittedOffset] | None = None
    transact: bool = False
    """Whether what waits for a transaction is due: see `Engine.seal`."""
    patient: bool = False
    """Whether to wait for a fact, and for no records, because the stage is full."""
    poll: int = 0
    """Number of records to poll then; 0: do not poll."""
    timeout: float = 0.0
    """Seconds to wait for records, or for a fact."""

"""Effects that a procedure yields to its driver, one at a time. The driver performs each, and sends back its result or
raises its error in the procedure.

Procedures are generators, so that the order of effects is written once: the thread driver performs each effect, the
asyncio driver awaits it. A procedure reads and changes the engine only between effects. The driver holds the engine's
lock then, and never during an effect.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from flux.core.engine.runs import Run
from flux.core.ports import CommittedOffset, TopicPartition

T = TypeVar("T")


@attrs.frozen
class PausePartitions:
    partitions: Sequence[TopicPartition]


@attrs.frozen
class ResumePartitions:
    partitions: Sequence[TopicPartition]


@attrs.frozen
class Seek:
    partition: TopicPartition
    offset: int


@attrs.frozen
class Poll:
    """Returns a `PollResult`."""

    records: int
    timeout: float


@attrs.frozen
class Rest:
    """Waits until a fact comes from another thread, at most `timeout` seconds. `facts`: how many there were when the
    script looked; not at all when there have been more since. None: whatever was before."""

    timeout: float
    facts: int | None = None


@attrs.frozen
class StartCommit:
    """Starts a commit; its end is reported as the fact `committed`."""

    offsets: Mapping[TopicPartition, CommittedOffset]


@attrs.frozen
class Commit:
    """Commits and waits; raises BrokerError."""

    offsets: Mapping[TopicPartition, CommittedOffset]
    timeout: float


@attrs.frozen
class Committed:
    """Returns the group's committed offsets, or None for a partition without one; raises BrokerError."""

    partitions: Sequence[TopicPartition]
    timeout: float


@attrs.frozen
class Marks:
    """Returns the watermarks of a topic by partition; raises BrokerError."""

    topic: str
    timeout: float


@attrs.frozen
class GroupOffsets:
    """Returns the committed offsets of another group on a topic, by partition; raises BrokerError."""

    group: str
    topic: str
    timeout: float


@attrs.frozen
class ReadKeys:
    """Reads the topic of keys (`retry_order`) to its present end; returns the offset up to which it was read, None if
    it was not read to its end; raises BrokerError."""

    timeout: float


@attrs.frozen
class Draw:
    """Returns a random number from 0 to `most`."""

    most: int


@attrs.frozen
class Write:
    """Hands the engine's forwarded copies to the producer, and writes its log events."""


@attrs.frozen
class Transact:
    """Requests a transaction of what waits for one; does not wait for it."""


@attrs.frozen
class Begin:
    """Starts the calls of a run: the poller makes them before this effect ends, or another caller meanwhile."""

    run: Run


@attrs.frozen
class Cancel:
    """Cancels the calls in flight that can be cancelled: none of them counts, however it ends."""


@attrs.frozen
class Close:
    """Leaves the group."""


Effect = (
    PausePartitions
    | ResumePartitions
    | Seek
    | Poll
    | Rest
    | StartCommit
    | Commit
    | Committed
    | Marks
    | GroupOffsets
    | ReadKeys
    | Draw
    | Write
    | Transact
    | Begin
    | Cancel
    | Close
)
Procedure = Generator[Effect, Any, T]

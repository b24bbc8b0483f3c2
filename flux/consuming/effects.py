"""What a script asks its driver to do, one at a time. The driver does it, and sends back what it gave or raises.

Scripts are generators, so that the order of effects is written once: the thread driver runs them, an asyncio driver
awaits each effect. A script reads and changes the engine only between effects, and the driver holds the engine's lock
then, and never during one.
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
    """Gives a `PollResult`."""

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
    """Its end comes as the fact `committed`."""

    positions: Mapping[TopicPartition, CommittedOffset]


@attrs.frozen
class Commit:
    """Waits for it; raises BrokerError."""

    positions: Mapping[TopicPartition, CommittedOffset]
    timeout: float


@attrs.frozen
class Committed:
    """Gives the group's committed offsets, None where it has none; raises BrokerError."""

    partitions: Sequence[TopicPartition]
    timeout: float


@attrs.frozen
class Marks:
    """Gives the watermarks of a topic by partition; raises BrokerError."""

    topic: str
    timeout: float


@attrs.frozen
class GroupOffsets:
    """Gives what another group has committed on a topic, by partition; raises BrokerError."""

    group: str
    topic: str
    timeout: float


@attrs.frozen
class Draw:
    """Gives a random number from 0 to `most`."""

    most: int


@attrs.frozen
class Write:
    """Hands the forwarded copies that the engine wants written to the producer, and logs its log_events."""


@attrs.frozen
class Begin:
    """Has the calls of a run made: by the poller itself, before this effect ends, or by somebody else meanwhile."""

    run: Run


@attrs.frozen
class Cancel:
    """Gives up the calls in flight that can be cancelled: none of them counts, however it ends."""


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
    | Draw
    | Write
    | Begin
    | Cancel
    | Close
)
Script = Generator[Effect, Any, T]

"""What the metadata of a committed offset says to the next owner of a partition: which records above it are done, and
whether the owner before vanished."""

from __future__ import annotations

from flux.core.engine.commands import Level
from flux.core.engine.crashes import Crashes
from flux.core.engine.offset_tracker import read_mark, read_metadata
from flux.core.monitoring.log_events import LogEvents
from flux.core.ports import CommittedOffset, TopicPartition


def done_above(
    partition: TopicPartition, committed: CommittedOffset | None, log_events: LogEvents
) -> list[tuple[int, int]]:
    """The offset ranges that are done."""
    if committed is None or not committed.metadata:
        return []
    done = read_metadata(*committed)
    if done is None:
        log_events.add(
            Level.WARNING,
            f"{partition}: the metadata of committed offset {committed.offset} is not flux's or is damaged;"
            " records completed past the committed offset are processed again",
            about=partition,
        )
    return done or []


def crashes_after(
    partition: TopicPartition, committed: CommittedOffset | None, limit: int | None, log_events: LogEvents
) -> Crashes:
    """`limit`: `max_crashes`; None: nothing is noted."""
    crashes = Crashes(limit, committed and read_mark(*committed))
    if crashes.crashes:
        level = Level.WARNING if crashes.careful else Level.INFO
        log_events.add(level, f"{partition}: {crashes.finding}", about=partition)
    return crashes

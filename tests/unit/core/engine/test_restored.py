"""What an owner reads from the metadata of a committed offset."""

from __future__ import annotations

import pytest

from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.engine.restored import crashes_after, done_above
from flux.core.monitoring.log_events import LogEvents
from flux.core.ports import CommittedOffset
from unit.support.engine_support import P0


def committed(mark: Mark | None, *done: tuple[int, int]) -> CommittedOffset:
    return CommittedOffset(5, OffsetTracker(5, done).metadata(mark))


@pytest.mark.parametrize(
    ("offset", "done"),
    [
        (None, []),
        (CommittedOffset(5), []),
        (committed(None, (7, 9)), [(7, 9)]),
        (committed(Mark(2), (7, 9)), [(7, 9)]),
        (committed(Mark(2)), []),
    ],
)
def test_what_is_done_above_the_committed_offset_is_read(
    offset: CommittedOffset | None, done: list[tuple[int, int]]
) -> None:
    log_events = LogEvents()
    assert done_above(P0, offset, log_events) == done
    assert log_events.take() == []


def test_metadata_that_is_not_ours_is_named_with_its_partition() -> None:
    log_events = LogEvents()
    assert done_above(P0, CommittedOffset(5, "someone else's"), log_events) == []
    why = "is not flux's or is damaged; records completed past the committed offset are processed again"
    assert log_events.take() == [LogEvent(Level.WARNING, f"t[0]: the metadata of committed offset 5 {why}", P0)]


@pytest.mark.parametrize(
    ("mark", "level", "crashes"), [(None, None, 0), (Mark(0), Level.INFO, 1), (Mark(1), Level.WARNING, 2)]
)
def test_a_mark_is_logged_with_what_follows_from_it(mark: Mark | None, level: Level | None, crashes: int) -> None:
    log_events = LogEvents()
    found = crashes_after(P0, committed(mark), 3, log_events)
    assert found.crashes == crashes
    events = log_events.take()
    assert [event.level for event in events] == ([] if level is None else [level])
    assert all(event.text == f"t[0]: {found.finding}" and event.about == P0 for event in events)


def test_without_a_limit_or_an_offset_there_is_no_mark() -> None:
    log_events = LogEvents()
    assert crashes_after(P0, committed(Mark(1)), None, log_events).opened
    assert crashes_after(P0, None, 3, log_events).mark is None
    assert log_events.take() == []

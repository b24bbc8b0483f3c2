"""How far a group is."""

from __future__ import annotations

import attrs
import pytest

from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.ports import CommittedOffset, Watermarks
from flux.core.stage import Role, Stage
from flux.operate.status.progress import crashes_of, uncommitted
from unit.support.report_support import STAGE

ABOVE = CommittedOffset(10, OffsetTracker(10, [(12, 15), (18, 20)]).metadata())


@pytest.mark.parametrize(
    ("stored", "done_to", "count"),
    [
        (None, {}, 0),
        (None, {"0": 8}, 3),  # the oldest record is at 5
        (CommittedOffset(10), {"0": 8}, 0),  # committed since
        (CommittedOffset(10), {"0": 13}, 3),
        (CommittedOffset(10), {"0": 90}, 30),  # no more than there are
        (CommittedOffset(10), {"1": 13, "x": 13}, 0),
        (ABOVE, {}, 5),
        (ABOVE, {"0": 13}, 7),
        (ABOVE, {"0": 19}, 10),
    ],
)
def test_what_is_done_and_not_committed_is_counted_once(
    stored: CommittedOffset | None, done_to: dict[str, int], count: int
) -> None:
    committed = {} if stored is None else {0: stored}
    reports = [attrs.evolve(STAGE, done_to=done_to), attrs.evolve(STAGE, done_to={"0": 3})]
    assert uncommitted(committed, {0: Watermarks(5, 40)}, reports) == count


def _marked(mark: Mark | None) -> CommittedOffset:
    return CommittedOffset(10, OffsetTracker(10).metadata(mark))


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        (Mark(1, None, None, True), "1 crash"),
        (Mark(1, None, 26), "1 crash: records below offset 26 are called in windows"),
        (Mark(2, None, 26, True), "2 crashes: records below offset 26 are called alone"),
        (
            Mark(2, 12, 26),
            "2 crashes: records below offset 26 are called alone; the record at offset 12 is called alone now",
        ),
        (Mark(3, 12, None, True), "3 crashes: the record at offset 12 was the only call during the last one"),
    ],
)
def test_a_partition_with_crashes_says_how_its_records_are_called(mark: Mark, text: str) -> None:
    stage = Stage(0, "orders", "billing", Role.MAIN)
    [found] = crashes_of(stage, {0: _marked(None), 3: _marked(mark), 4: _marked(Mark(0))})
    assert (str(found.at), found.text) == ("orders[3]", text)

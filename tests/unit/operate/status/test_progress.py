"""How far a group is."""

from __future__ import annotations

import attrs
import pytest

from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.ports import CommittedOffset, Watermarks
from flux.operate.status.progress import uncommitted
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

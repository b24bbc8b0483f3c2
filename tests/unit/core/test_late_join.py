"""Which stages join their groups late, and when their topics count as empty."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.backoff import Waits
from flux.core.late_join import interval, is_empty
from flux.core.ports import CommittedOffset, Watermarks
from flux.core.stage import Role, Stage
from unit.support.engine_support import policy

DAYS = 30 * 86_400


def found(number: int, wait: Any = None, role: Role = Role.RETRY) -> float | None:
    return interval(policy(waits=Waits(wait, DAYS)), Stage(number, "t", "g", role))


def test_later_retry_stages_are_looked_at_several_times_in_their_shortest_wait() -> None:
    assert found(2) == (2**4 + 15) / 4
    assert found(2, 16) == 4


def test_no_look_is_far_from_the_next() -> None:
    assert found(25) == 30


def test_the_first_stage_joins_at_once_because_delayed_records_come_to_it() -> None:
    assert found(1, 600) is None


@pytest.mark.parametrize("role", [Role.MAIN, Role.DEAD, Role.LEFTOVER])
def test_only_retry_stages_join_late(role: Role) -> None:
    assert found(3, 600, role) is None


def test_a_stage_that_waits_for_a_moment_joins_at_once() -> None:
    assert found(2, 14.9) is None


NOTHING = Watermarks(0, 0)


@pytest.mark.parametrize(
    ("committed", "marks"),
    [
        ({}, {0: NOTHING, 1: NOTHING}),
        ({}, {0: Watermarks(7, 7)}),  # all was deleted
        ({0: 7}, {0: Watermarks(0, 7), 1: NOTHING}),
        ({0: 7}, {0: Watermarks(7, 7)}),
    ],
)
def test_a_topic_is_empty_whose_records_are_done_or_deleted(
    committed: dict[int, int], marks: dict[int, Watermarks]
) -> None:
    assert is_empty({number: CommittedOffset(offset) for number, offset in committed.items()}, marks)


@pytest.mark.parametrize(
    ("committed", "marks"),
    [
        ({}, {0: NOTHING, 1: Watermarks(0, 1)}),
        ({0: 6}, {0: Watermarks(0, 7)}),
        ({0: 7, 1: 0}, {0: Watermarks(0, 7), 1: Watermarks(0, 1)}),
        ({0: 6}, {0: Watermarks(7, 7)}),  # records were deleted that the group had not read
        ({0: 9}, {0: Watermarks(0, 7)}),  # the topic was made again
    ],
)
def test_whatever_is_not_certain_is_for_a_member(committed: dict[int, int], marks: dict[int, Watermarks]) -> None:
    assert not is_empty({number: CommittedOffset(offset) for number, offset in committed.items()}, marks)

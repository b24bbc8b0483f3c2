"""A member's part of the group's rate, from the partitions that it owns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.limits.group_share import LEAST_PART, RETRIES_PART, GroupShare


def share(retries: int, owned: dict[int, int], counted: dict[int, int]) -> float | None:
    made = GroupShare(retries)
    for stage, partitions in counted.items():
        made.counted(stage, partitions)
    for stage, partitions in owned.items():
        made.owns(stage, partitions)
    return made.part


def test_a_member_that_owns_everything_has_the_whole_limit() -> None:
    assert share(2, {0: 6, 1: 6, 2: 6}, {0: 6, 1: 6, 2: 6}) == pytest.approx(1)
    assert share(0, {0: 6}, {0: 6}) == 1


def test_a_third_of_the_main_topic_is_a_third_of_nine_tenths() -> None:
    assert share(2, {0: 2}, {0: 6}) == pytest.approx((1 - RETRIES_PART) / 3)


def test_a_member_with_partitions_of_a_retry_topic_only_gets_to_them() -> None:
    assert share(2, {0: 0, 1: 3}, {0: 6, 1: 6}) == pytest.approx(RETRIES_PART / 2 / 2)


def test_a_member_that_drains_what_is_neither_main_topic_nor_retry_gets_to_it_too() -> None:
    assert share(2, {3: 1}, {3: 6}) == LEAST_PART
    assert share(0, {1: 1}, {1: 6}) == LEAST_PART


def test_without_a_partition_there_is_no_part() -> None:
    assert share(2, {}, {0: 6}) is None
    assert share(2, {0: 0}, {0: 6}) is None


def test_a_topic_that_has_grown_since_it_was_counted_makes_no_part_greater_than_one() -> None:
    assert share(0, {0: 8}, {0: 6}) == 1
    assert share(0, {0: 8}, {}) == 1


@given(
    retries=st.integers(0, 5),
    owners=st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 7)), st.integers(0, 3)),
)
def test_the_parts_of_all_members_add_up_to_the_limit_at_most(retries: int, owners: dict[tuple[int, int], int]) -> None:
    owners = {(stage, partition): member for (stage, partition), member in owners.items() if stage <= retries}
    parts = []
    for member in range(4):
        mine = [stage for (stage, _), owner in owners.items() if owner == member]
        parts.append(share(retries, {stage: mine.count(stage) for stage in mine}, dict.fromkeys(range(6), 8)) or 0)
    assert sum(parts) <= 1 + 1e-9

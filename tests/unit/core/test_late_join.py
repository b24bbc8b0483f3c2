"""Which stages join their groups late, and when their topics count as empty."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.backoff import Waits
from flux.core.late_join import interval, is_empty
from flux.core.ports import Watermarks
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


def test_a_topic_is_empty_that_never_had_records_or_whose_records_are_deleted() -> None:
    assert is_empty({0: Watermarks(0, 0), 1: Watermarks(7, 7)})


def test_a_topic_with_a_record_is_not_empty() -> None:
    assert not is_empty({0: Watermarks(0, 0), 1: Watermarks(6, 7)})

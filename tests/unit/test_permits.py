"""How the stages of one task share the calls that may be in flight."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.limits.concurrency import Permits


def test_no_more_than_the_total() -> None:
    permits = Permits(3, main_here=True)
    assert [permits.take(0) for _ in range(4)] == [True, True, True, False]
    permits.give(0)
    assert permits.take(0)


def test_retry_stages_leave_one_to_the_main_stage() -> None:
    permits = Permits(3, main_here=True)
    assert [permits.take(1), permits.take(2), permits.take(1)] == [True, True, False]
    assert permits.take(0)


def test_without_the_main_stage_the_others_have_all() -> None:
    permits = Permits(2, main_here=False)
    assert permits.take(1)
    assert permits.take(2)


@pytest.mark.parametrize("capped", [(2,), (2, 3), (1, 2)])
def test_a_retry_stage_that_waits_for_its_share_does_not_starve_the_main_stage(capped: tuple[int, ...]) -> None:
    permits = Permits(2, main_here=True)
    assert permits.take(1)
    assert not any(permits.take(stage) for stage in capped)
    assert permits.take(0)


def test_with_one_permit_the_stages_alternate() -> None:
    permits = Permits(1, main_here=True)
    turns = []
    assert permits.take(0)
    assert not permits.take(1)
    holder = 0
    for _ in range(6):
        permits.give(holder)
        holder = next(stage for stage in (0, 1) if permits.take(stage))
        assert not permits.take(1 - holder)
        turns.append(holder)
    assert turns == [1, 0, 1, 0, 1, 0]


def test_one_that_waits_no_more_stands_in_nobodys_way() -> None:
    permits = Permits(1, main_here=False)
    permits.take(1)
    assert not permits.take(2)
    permits.give(1)
    assert not permits.take(1)
    permits.forgo(2)
    assert permits.take(1)


def test_no_permit_is_kept_for_one_that_does_not_come_and_it_keeps_its_place() -> None:
    permits = Permits(1, main_here=False)
    permits.take(1)
    assert not permits.take(2)
    permits.give(1)
    assert permits.take(3, comes=lambda stage: stage != 2)
    permits.give(3)
    assert not permits.take(1)
    assert permits.take(2)


def test_one_that_waits_no_more_says_whether_it_stood_before_others() -> None:
    permits = Permits(1, main_here=False)
    permits.take(1)
    assert not permits.take(2)
    assert not permits.take(3)
    permits.give(1)
    assert permits.awaited
    assert [permits.forgo(2), permits.forgo(2)] == [True, False]
    assert permits.take(3)
    assert not permits.awaited


@given(
    total=st.integers(1, 4),
    main_here=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(["take", "give", "forgo"]), st.integers(0, 3)), max_size=60),
)
def test_whoever_asks_again_gets_a_turn_and_the_main_stage_never_starves(
    total: int, main_here: bool, steps: list[tuple[str, int]]
) -> None:
    permits = Permits(total, main_here)
    held: Counter[int] = Counter()
    for step, stage in steps:
        if stage == 0 and not main_here:
            continue
        if step == "take" and permits.take(stage):
            held[stage] += 1
        elif step == "give" and held[stage]:
            permits.give(stage)
            held[stage] -= 1
        elif step == "forgo":
            permits.forgo(stage)
        assert permits.used == held.total() <= total
        if main_here and total > 1:
            assert held.total() - held[0] < total
    for stage in (1, 2, 3):
        permits.forgo(stage)
    if main_here and held.total() < total:
        assert permits.take(0)


@given(total=st.integers(1, 4), rounds=st.integers(5, 20))
def test_no_stage_that_keeps_asking_is_passed_over(total: int, rounds: int) -> None:
    permits = Permits(total, main_here=True)
    held: list[int] = []
    served: Counter[int] = Counter()
    for _ in range(rounds * 4):
        for stage in (0, 1, 2):
            if permits.take(stage):
                held.append(stage)
                served[stage] += 1
        if held:
            permits.give(held.pop(0))
    assert min(served[stage] for stage in (0, 1, 2)) >= rounds // 2

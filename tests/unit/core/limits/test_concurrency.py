"""How the stages of one task share the calls that may be in flight."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.limits.concurrency import ConcurrencyLimit


def test_no_more_than_the_total() -> None:
    concurrency_limit = ConcurrencyLimit(3, main_here=True)
    assert [concurrency_limit.take(0) for _ in range(4)] == [True, True, True, False]
    concurrency_limit.give(0)
    assert concurrency_limit.take(0)


def test_retry_stages_leave_one_to_the_main_stage() -> None:
    concurrency_limit = ConcurrencyLimit(3, main_here=True)
    assert [concurrency_limit.take(1), concurrency_limit.take(2), concurrency_limit.take(1)] == [True, True, False]
    assert concurrency_limit.take(0)


def test_without_the_main_stage_the_others_have_all() -> None:
    concurrency_limit = ConcurrencyLimit(2, main_here=False)
    assert concurrency_limit.take(1)
    assert concurrency_limit.take(2)


@pytest.mark.parametrize("capped", [(2,), (2, 3), (1, 2)])
def test_a_retry_stage_that_waits_for_its_share_does_not_starve_the_main_stage(capped: tuple[int, ...]) -> None:
    concurrency_limit = ConcurrencyLimit(2, main_here=True)
    assert concurrency_limit.take(1)
    assert not any(concurrency_limit.take(stage) for stage in capped)
    assert concurrency_limit.take(0)


def test_with_one_permit_the_stages_alternate() -> None:
    concurrency_limit = ConcurrencyLimit(1, main_here=True)
    turns = []
    assert concurrency_limit.take(0)
    assert not concurrency_limit.take(1)
    holder = 0
    for _ in range(6):
        concurrency_limit.give(holder)
        holder = next(stage for stage in (0, 1) if concurrency_limit.take(stage))
        assert not concurrency_limit.take(1 - holder)
        turns.append(holder)
    assert turns == [1, 0, 1, 0, 1, 0]


def test_one_that_waits_no_more_stands_in_nobodys_way() -> None:
    concurrency_limit = ConcurrencyLimit(1, main_here=False)
    concurrency_limit.take(1)
    assert not concurrency_limit.take(2)
    concurrency_limit.give(1)
    assert not concurrency_limit.take(1)
    concurrency_limit.forgo(2)
    assert concurrency_limit.take(1)


def test_no_permit_is_kept_for_one_that_does_not_come_and_it_keeps_its_place() -> None:
    concurrency_limit = ConcurrencyLimit(1, main_here=False)
    concurrency_limit.take(1)
    assert not concurrency_limit.take(2)
    concurrency_limit.give(1)
    assert concurrency_limit.take(3, comes=lambda stage: stage != 2)
    concurrency_limit.give(3)
    assert not concurrency_limit.take(1)
    assert concurrency_limit.take(2)


def test_one_that_waits_no_more_says_whether_it_stood_before_others() -> None:
    concurrency_limit = ConcurrencyLimit(1, main_here=False)
    concurrency_limit.take(1)
    assert not concurrency_limit.take(2)
    assert not concurrency_limit.take(3)
    concurrency_limit.give(1)
    assert concurrency_limit.awaited
    assert [concurrency_limit.forgo(2), concurrency_limit.forgo(2)] == [True, False]
    assert concurrency_limit.take(3)
    assert not concurrency_limit.awaited


@given(
    total=st.integers(1, 4),
    main_here=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(["take", "give", "forgo"]), st.integers(0, 3)), max_size=60),
)
def test_whoever_asks_again_gets_a_turn_and_the_main_stage_never_starves(
    total: int, main_here: bool, steps: list[tuple[str, int]]
) -> None:
    concurrency_limit = ConcurrencyLimit(total, main_here)
    held: Counter[int] = Counter()
    for step, stage in steps:
        if stage == 0 and not main_here:
            continue
        if step == "take" and concurrency_limit.take(stage):
            held[stage] += 1
        elif step == "give" and held[stage]:
            concurrency_limit.give(stage)
            held[stage] -= 1
        elif step == "forgo":
            concurrency_limit.forgo(stage)
        assert concurrency_limit.used == held.total() <= total
        if main_here and total > 1:
            assert held.total() - held[0] < total
    for stage in (1, 2, 3):
        concurrency_limit.forgo(stage)
    if main_here and held.total() < total:
        assert concurrency_limit.take(0)


@given(total=st.integers(1, 4), rounds=st.integers(5, 20))
def test_no_stage_that_keeps_asking_is_passed_over(total: int, rounds: int) -> None:
    concurrency_limit = ConcurrencyLimit(total, main_here=True)
    held: list[int] = []
    served: Counter[int] = Counter()
    for _ in range(rounds * 4):
        for stage in (0, 1, 2):
            if concurrency_limit.take(stage):
                held.append(stage)
                served[stage] += 1
        if held:
            concurrency_limit.give(held.pop(0))
    assert min(served[stage] for stage in (0, 1, 2)) >= rounds // 2

"""How the stages of one task share the calls that may be in flight."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.limits.concurrency import ConcurrencyByName, ConcurrencyLimit


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


def has_permit(total: int, main_here: bool, held: Counter[int], before: list[int], stage: int) -> bool:
    """Whether a permit is left for `stage` when those before it have been served."""
    free = total - held.total()
    for_retries = (total - 1 if main_here and total > 1 else total) - (held.total() - held[0])
    served = False
    for each in [*before, stage]:
        served = free > 0 and (each == 0 or for_retries > 0)
        free -= served
        for_retries -= served and each != 0
    return served


@pytest.mark.parametrize("total", [1, 2, 3, 4])
@pytest.mark.parametrize("main_here", [False, True])
def test_a_stage_gets_what_those_that_were_refused_before_it_leave(total: int, main_here: bool) -> None:
    chance, concurrency_limit = random.Random(total), ConcurrencyLimit(total, main_here)
    held: Counter[int] = Counter()
    refused: list[int] = []
    for _ in range(2000):
        stage, coming = chance.randrange(0 if main_here else 1, 4), chance.sample(range(4), chance.choice((2, 4)))
        step = chance.choice(("take", "take", "take", "give", "give", "forgo"))
        if step == "take":
            before = [each for each in refused[: [*refused, stage].index(stage)] if each in coming]
            expected = has_permit(total, main_here, held, before, stage)
            assert concurrency_limit.take(stage, coming.__contains__) is expected
            held[stage] += expected
            if expected and stage in refused:
                refused.remove(stage)
            elif not expected and stage not in refused:
                refused.append(stage)
        elif step == "give" and held[stage]:
            concurrency_limit.give(stage)
            held[stage] -= 1
        elif step == "forgo":
            assert concurrency_limit.forgo(stage) is (stage in refused)
            refused = [each for each in refused if each != stage]
        assert concurrency_limit.used == held.total()
        assert concurrency_limit.awaited is (bool(refused) and held.total() < total)


class Freed:
    def __init__(self) -> None:
        self.names: list[str] = []

    def freed(self, limit: object, name: str) -> None:
        self.names.append(name)

    def names_for(self, limit: object) -> set[str]:
        return set()


def test_so_many_calls_at_once_for_each_name() -> None:
    limit, watcher = ConcurrencyByName(2, lambda message: message.key), Freed()
    limit.watchers.append(watcher)
    first, second = object(), object()
    limit.started("a", first, 0.0)
    assert limit.opens_at("a", 0.0) == 0.0
    limit.started("a", second, 0.0)
    assert limit.opens_at("a", 0.0) is None
    assert limit.opens_at("b", 0.0) == 0.0
    limit.ended("a", first, True)
    assert (limit.opens_at("a", 1.0), watcher.names) == (1.0, ["a"])


def test_a_name_without_a_call_is_forgotten() -> None:
    limit, call = ConcurrencyByName(2, lambda message: message.key), object()
    limit.started("a", call, 0.0)
    assert len(limit) == 1
    limit.ended("a", call, False)
    assert len(limit) == 0

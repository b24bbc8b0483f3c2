"""Random walks of a stage among random facts; see `engine_model` for what is checked after each step."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from unit.support.engine_model import World

STEPS = 200


def walk(
    seeds: Iterable[int],
    stage: int,
    ordering: str,
    max_metadata: int = 4095,
    in_place: bool = False,
    named: bool = False,
) -> None:
    for seed in seeds:
        world = World(seed, stage=stage, ordering=ordering, max_metadata=max_metadata, in_place=in_place, named=named)
        try:
            for _ in range(STEPS):
                world.step()
            world.drain()
        except Exception as error:
            error.add_note(f"seed {seed}, stage {stage}, ordering {ordering}, step {len(world.history)}")
            raise


@pytest.mark.parametrize("ordering", ["key", "partition", "none"])
@pytest.mark.parametrize("stage", [0, 1, 3], ids=["main", "retry", "dead"])
def test_nothing_is_lost_repeated_or_out_of_order_whatever_happens(stage: int, ordering: str) -> None:
    walk(range(60), stage, ordering)


@pytest.mark.parametrize("ordering", ["key", "partition", "none"])
@pytest.mark.parametrize("stage", [0, 1, 3], ids=["main", "retry", "dead"])
def test_all_of_it_holds_with_little_room_for_metadata(stage: int, ordering: str) -> None:
    walk(range(40), stage, ordering, max_metadata=30)


@pytest.mark.parametrize("max_metadata", [30, 4095])
@pytest.mark.parametrize("ordering", ["key", "partition", "none"])
@pytest.mark.parametrize("stage", [0, 1, 3], ids=["main", "retry", "dead"])
def test_all_of_it_holds_through_pauses_and_tries_in_place(stage: int, ordering: str, max_metadata: int) -> None:
    walk(range(20), stage, ordering, max_metadata, in_place=True)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("max_metadata", [30, 4095])
@pytest.mark.parametrize("ordering", ["key", "partition", "none"])
@pytest.mark.parametrize("stage", [0, 1, 3], ids=["main", "retry", "dead"])
def test_all_of_it_holds_with_limits_by_name(stage: int, ordering: str, max_metadata: int, in_place: bool) -> None:
    walk(range(15), stage, ordering, max_metadata, in_place, named=True)

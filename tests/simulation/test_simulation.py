"""Faults over the whole history of workers: flux holds, a broken flux is caught, and every run can be repeated."""

from __future__ import annotations

import pytest

from simulation.__main__ import Figures, run_all
from simulation.mutants import MUTANTS, mutated
from simulation.play import play
from simulation.scenario import draw

SEEDS = 500
TRIES = 60


@pytest.mark.timeout(600)
def test_nothing_is_lost_repeated_or_out_of_order_whatever_goes_wrong() -> None:
    figures = Figures()
    for some in run_all(0, SEEDS, 2):
        figures.merge(some)
    print(figures)
    assert figures.failed == [], f"replay one by: cd tests && python -m simulation {figures.failed[0]}"
    assert len(figures.faults) > 15


def test_the_same_seed_has_the_same_history() -> None:
    for seed in range(5):
        assert play(draw(seed)).digest == play(draw(seed)).digest


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_flux_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    with mutated(name):
        for seed in range(mutant.first, mutant.first + TRIES):
            if play(draw(seed, mutant.focus)).violation is not None:
                return
    pytest.fail(f"{TRIES} seeds did not notice that {name}")

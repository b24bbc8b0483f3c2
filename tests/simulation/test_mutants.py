"""The simulation notices each mistake that is made on purpose."""

from __future__ import annotations

import pytest

import simulation.mutants_of_calls
import simulation.mutants_of_holding
import simulation.mutants_of_limits
import simulation.mutants_of_order
import simulation.mutants_of_order_in_transactions
import simulation.mutants_of_outages
import simulation.mutants_of_partitions
import simulation.mutants_of_schedules
import simulation.mutants_of_transactions  # noqa: F401
from flux.producing.scope import CURRENT
from simulation.features import draw
from simulation.mutants import MUTANTS, mutated
from simulation.play import Result, play
from simulation.shrink import told

MOST_SEEDS = 150
"""In which a mutant must be noticed; most are in the first few."""


def _noticed(name: str) -> tuple[int, Result]:
    mutant = MUTANTS[name]
    for seed in range(mutant.first, mutant.first + MOST_SEEDS):
        with mutated(name):
            result = play(draw(seed, mutant.focus, mutant.features))
        if result.violation is not None:
            return seed, result
    pytest.fail(f"not noticed in {MOST_SEEDS} seeds")


def test_a_run_that_ends_in_the_middle_leaves_nothing_to_what_comes_after_it() -> None:
    _noticed("a revocation goes on feeding")
    assert CURRENT.get() is None


def test_nothing_of_a_mutant_is_left_when_it_has_ended() -> None:
    name = "enqueued work counts an attempt that it never had"
    seed, _ = _noticed(name)
    assert play(draw(seed, MUTANTS[name].focus, MUTANTS[name].features)).violation is None


@pytest.mark.parametrize("name", MUTANTS)
def test_it_notices_when(name: str) -> None:
    _noticed(name)


def test_a_failing_seed_is_told_with_its_command_and_a_shorter_history() -> None:
    name = "the highest finished offset is committed"
    seed, failed = _noticed(name)
    with mutated(name):
        text = told(seed, failed, seconds=60.0)  # it takes 3 s, and more beside other tests
    assert f"replay: PYTHONPATH=tests python -m simulation {seed}\n" in text
    assert "shorter: " in text
    assert "is committed and not done" in text.splitlines()[-1]
    assert len(text.splitlines()) < len(failed.history)

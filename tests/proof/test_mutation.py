"""The stage `mutation`: how its results are read and judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from proof.mutation.mutants import Mutant, Result, accepted, modules, tried
from proof.mutation.stage import problems

MODULE = "flux/core/engine/expiry.py"
MUTANT = Mutant(MODULE, "f", "return a < b", "return a <= b")


def test_a_survivor_is_a_problem_of_a_module_below_the_share() -> None:
    assert problems([Result(MODULE, killed=9, survivors=[MUTANT])]) == []
    [problem] = problems([Result(MODULE, killed=8, survivors=[MUTANT])])
    assert str(MUTANT) in problem


def test_a_survivor_with_a_reason_counts_like_one_that_is_killed() -> None:
    assert Result(MODULE, killed=8, accepted=1, survivors=[MUTANT]).share == 0.9


def test_a_reason_for_a_mutant_that_does_not_survive_is_a_problem() -> None:
    [problem] = problems([Result(MODULE, killed=9, stale=[MUTANT])])
    assert "did not survive" in problem


def test_each_accepted_mutant_is_of_a_module_of_the_core_and_has_a_reason() -> None:
    for mutant, reason in accepted().items():
        assert mutant.module in modules()
        assert reason


def test_mutants_of_a_module_are_tried_with_its_own_tests(tmp_path: Path) -> None:
    result = tried(MODULE, tmp_path)
    assert (result.problem, result.stale) == ("", [])
    assert result.mutants > 3
    assert result.killed > 0.9 * result.mutants


def test_a_module_without_anything_to_change_is_no_problem(tmp_path: Path) -> None:
    result = tried("flux/core/ports/values.py", tmp_path)
    assert (result.problem, result.mutants, result.share) == ("", 0, 1.0)


def test_tests_that_fail_without_a_mutant_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "proof.mutation.mutants._PAIRS",
        {"modules": list, "tests_of": lambda *_: [Path(__file__).parents[2] / "tests/absent.py"]},
    )
    assert "mutmut ended" in tried(MODULE, tmp_path).problem

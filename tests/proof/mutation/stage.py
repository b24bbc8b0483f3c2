"""The stage `mutation`: small changes to the core, each of which a test of its module has to notice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from proof.mutation.mutants import Mutant, Result, accepted, modules, tried
from proof.stage import Outcome, Stage, Table

SHARE = 0.9


def results(chosen: Iterable[str], directory: Path) -> Iterator[Result]:
    """Begins in the given order; yields each module when it is done."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in as_completed([pool.submit(tried, module, directory) for module in chosen]):
            yield done.result()


def problems(found: Iterable[Result]) -> list[str]:
    """Survivors of modules below the share, and reasons for mutants that a test kills by now."""
    texts: list[str] = []
    for result in found:
        if result.problem:
            texts.append(result.problem)
        if result.share < SHARE:
            texts += [f"survived: {mutant}" for mutant in result.survivors]
        texts += [f"in accepted.toml, but it did not survive: {mutant}" for mutant in result.stale]
    return texts


def _run(scale: float, directory: Path) -> Outcome:
    """`scale`: the share of the modules, the smallest first."""
    every = modules()
    smallest = every[-max(1, round(scale * len(every))) :]
    found = list(results(smallest, directory))
    total, survived = sum(each.mutants for each in found), sum(len(each.survivors) for each in found)
    share = 1 - survived / total if total else 1.0
    return Outcome(
        problems(found),
        {"mutants": total, "survivors without a reason": survived, "share": f"{share:.3f}"},
        [
            Table(
                "Modules",
                ("module", "mutants", "killed", "timed out", "survived with a reason", "survived", "share"),
                [
                    (
                        each.module,
                        each.mutants,
                        each.killed,
                        each.timeouts,
                        each.accepted,
                        len(each.survivors),
                        f"{each.share:.3f}",
                    )
                    for each in sorted(found, key=lambda each: each.module)
                ],
            ),
            Table("Survivors", _COLUMNS, [_row(mutant) for each in found for mutant in each.survivors]),
            Table(
                "Survivors with a reason",
                (*_COLUMNS, "reason"),
                [(*_row(mutant), reason) for mutant, reason in accepted().items()],
            ),
        ],
        ["mutmut changes functions and methods; properties and module constants stay as they are."],
    )


_COLUMNS = ("module", "function", "line", "mutant")


def _row(mutant: Mutant) -> tuple[str, str, str, str]:
    return mutant.module, mutant.function, mutant.was, mutant.now


MUTATION = Stage(
    "mutation",
    "Mutants of the core, each tried with its module's own tests: a test fails, or the mutant is named with a reason.",
    _run,
)

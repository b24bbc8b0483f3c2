"""Makes a failing run shorter: leaves out what it fails without, until nothing more can be left out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import attrs

from simulation.cut import SIMPLER, Cut
from simulation.features import draw
from simulation.play import Result, play
from simulation.scenario import Scenario


def shrink(seed: int, failed: Result, seconds: float = 20.0) -> tuple[Cut, Result]:
    """The smallest cut of a seed's scenario found within `seconds` of real time that breaks something, and its
    result."""
    scenario, best, result = draw(seed), Cut(), failed
    deadline = time.monotonic() + seconds
    progress = True
    while progress:
        progress = False
        for cut in _smaller(scenario, best):
            if time.monotonic() > deadline:
                return best, result
            tried = play(cut.of(scenario))
            if tried.violation is not None and len(tried.history) <= len(result.history):
                best, result, progress = cut, tried, True
                break
    return best, result


def _smaller(scenario: Scenario, best: Cut) -> Iterator[Cut]:
    """The largest steps first."""
    records = best.records if best.records is not None else tuple(record.number for record in scenario.records)
    events = best.events if best.events is not None else tuple(range(len(scenario.events)))
    for kept in _fewer(records):
        yield attrs.evolve(best, records=kept)
    for kept in _fewer(events):
        yield attrs.evolve(best, events=kept)
    workers = len(scenario.workers) if best.workers is None else best.workers
    if workers > 1:
        yield attrs.evolve(best, workers=workers - 1)
    for name in SIMPLER:
        if name not in best.without:
            yield attrs.evolve(best, without=(*best.without, name))


def _fewer(all_of: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    size = len(all_of)
    while size > 1:
        size = (size + 1) // 2
        for start in range(0, len(all_of), size):
            left = all_of[:start] + all_of[start + size :]
            if left or len(all_of) == 1:
                yield left
        if size == 1:
            return
    if len(all_of) == 1:
        yield ()


def told(seed: int, failed: Result, seconds: float = 20.0) -> str:
    """What is printed of a failing seed: why, how to replay it, and the shortest history that was found."""
    cut, result = shrink(seed, failed, seconds)
    command = f"PYTHONPATH=tests python -m simulation {seed}"
    lines = [f"seed {seed}: {failed.violation}", f"replay: {command}"]
    if cut != Cut():
        lines.append(f"shorter: {command} {cut.arguments()}")
    lines += [f"  {line}" for line in result.history]
    lines.append(f"  => {result.violation}")
    return "\n".join(lines)

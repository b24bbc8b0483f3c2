"""Many seeds, in several processes."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import attrs

from simulation.features import draw
from simulation.play import Result, play

_AT_ONCE = 20


@attrs.define
class Figures:
    """Of many runs."""

    seeds: int = 0
    hours: float = 0.0
    steps: int = 0
    calls: int = 0
    faults: Counter[str] = attrs.field(factory=Counter)
    failed: list[int] = attrs.field(factory=list)

    def add(self, seed: int, result: Result) -> None:
        self.seeds += 1
        self.hours += result.hours
        self.steps += result.steps
        self.calls += result.calls
        self.faults.update(result.faults)
        if result.violation is not None:
            self.failed.append(seed)

    def merge(self, other: Figures) -> None:
        self.seeds += other.seeds
        self.hours += other.hours
        self.steps += other.steps
        self.calls += other.calls
        self.faults.update(other.faults)
        self.failed += other.failed

    def __str__(self) -> str:
        lines = [
            f"{self.seeds} seeds, {self.hours:,.0f} simulated hours, {self.calls:,} calls,"
            f" {self.steps:,} points of interruption"
        ]
        lines += [f"{number:10,} {kind}" for kind, number in sorted(self.faults.items())]
        return "\n".join(lines)


def run(seeds: range) -> Figures:
    figures = Figures()
    for seed in seeds:
        figures.add(seed, play(draw(seed)))
    return figures


def run_all(first: int, count: int, processes: int) -> Iterator[Figures]:
    """In chunks, as they end."""
    chunks = [range(at, min(at + _AT_ONCE, first + count)) for at in range(first, first + count, _AT_ONCE)]
    if processes == 1:
        yield from map(run, chunks)
        return
    # not forked: a Kafka client that the parent has used does not survive it
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run, chunks)

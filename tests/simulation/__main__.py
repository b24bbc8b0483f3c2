"""Plays seeds: `python -m simulation SEED` one, told in full; `--seeds N` many, counted."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from simulation.cut import SIMPLER, Cut
from simulation.features import draw
from simulation.many import Figures, run_all
from simulation.play import play
from simulation.shrink import told

TOLD = 3
"""Failing seeds that are told in full; the others by their numbers."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="the one to play, or the first of them")
    parser.add_argument("--seeds", type=int, help="how many to play")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--events", type=_numbers, help="of one seed: the numbers of the events to keep; -: none")
    parser.add_argument("--records", type=_numbers, help="the numbers of the records to keep")
    parser.add_argument("--workers", type=int, help="how many workers to keep")
    parser.add_argument("--without", type=_names, default=(), help=f"any of {','.join(SIMPLER)}")
    options = parser.parse_args()
    if options.seeds is None:
        cut = Cut(options.events, options.records, options.workers, options.without)
        return _one(options.seed or 0, cut)
    return _many(options.seed or 0, options.seeds, options.processes)


def _one(seed: int, cut: Cut) -> int:
    result = play(cut.of(draw(seed)))
    print("\n".join(result.history))
    if result.violation is None:
        return 0
    print(f"=> {result.violation}")
    if result.violation.__cause__ is not None:
        traceback.print_exception(result.violation.__cause__)
    return 1


def _many(first: int, count: int, processes: int) -> int:
    figures, began = Figures(), time.monotonic()
    for some in run_all(first, count, processes):
        figures.merge(some)
        for seed in some.failed[: max(0, TOLD - len(figures.failed) + len(some.failed))]:
            print(told(seed, play(draw(seed))), flush=True)
        if sys.stderr.isatty():
            print(f"\r{figures.seeds} of {count}", end="", file=sys.stderr)
    print(f"{figures}\n{time.monotonic() - began:.0f} s; failed: {', '.join(map(str, figures.failed)) or 'none'}")
    return 1 if figures.failed else 0


def _numbers(text: str) -> tuple[int, ...]:
    return () if text == "-" else tuple(map(int, text.split(",")))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    sys.exit(main())

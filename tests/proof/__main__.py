"""`make prove`: every stage, one after the other. Arguments name stages; `--scale` is their size, 1 being a night's."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

import attrs

from proof.report import written
from proof.stage import Outcome
from proof.stages import STAGES

ROOT = Path(__file__).parents[2]


def _scale(given: str) -> float:
    return 0.01 if given == "small" else float(given)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof", description="Proves flux against the real thing.")
    parser.add_argument("stages", nargs="*", metavar="stage", help=", ".join(STAGES))
    parser.add_argument("--scale", type=_scale, default=1.0, help="1: a night's; small: CI's, which is 0.01")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "proof")
    given = parser.parse_args()
    if unknown := set(given.stages) - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    logs = Path(tempfile.mkdtemp(prefix="flux-proof-"))
    outcomes: dict[str, Outcome] = {}
    for name, stage in STAGES.items():
        if given.stages and name not in given.stages:
            continue
        began = time.monotonic()
        own = logs / name
        own.mkdir()
        try:
            outcome = stage.run(given.scale, own)
        except Exception:
            outcome = Outcome([traceback.format_exc()], {})
        outcomes[name] = attrs.evolve(outcome, seconds=time.monotonic() - began)
        figures = ", ".join(f"{value} {what}" for what, value in outcome.figures.items())
        print(f"{name}: {'FAILED' if outcome.problems else 'passed'} ({figures})", flush=True)
        for problem in outcome.problems:
            print(f"  {problem}", file=sys.stderr, flush=True)
    print(f"report: {written(given.out, outcomes, STAGES, given.scale)}; logs: {logs}")
    return 1 if any(outcome.problems for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m proof.versions PIECE…`: plays pieces of the stage alone; the table of all then has their new results."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from proof.report import written
from proof.stages import STAGES
from proof.versions.pieces import RESULTS, kept, outcome
from proof.versions.stage import PIECES, played


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof.versions")
    parser.add_argument("pieces", nargs="*", metavar="piece", help=", ".join(PIECES), choices=[[], *PIECES])
    logs = Path(tempfile.mkdtemp(prefix="flux-proof-"))
    problems: list[str] = []
    for name in parser.parse_args().pieces or PIECES:
        found = played(name, logs)
        problems += found.problems
        print(f"{name}: {'FAILED' if found.problems else 'passed'} ({found.tests} tests)", *found.notes, sep="\n  ")
    print(*problems, sep="\n", file=sys.stderr)
    page = written(RESULTS.parent, {"versions": outcome(kept(), list(PIECES))}, STAGES, 1.0)
    print(f"report: {page}; logs: {logs}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""Prints the mutants of modules that survive: python -m proof.mutation flux/core/policy.py …; without names, all."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from proof.mutation.mutants import modules
from proof.mutation.stage import problems, results


def main() -> int:
    failed = False
    with tempfile.TemporaryDirectory(prefix="flux-mutants-") as directory:
        for result in results(sys.argv[1:] or modules(), Path(directory)):
            print(f"{result.module}: {result.mutants} mutants, share {result.share:.3f}")
            for mutant in result.survivors:
                print(f"  {mutant.function}\n    - {mutant.was}\n    + {mutant.now}")
            for text in (result.problem, *(f"no longer survives: {mutant}" for mutant in result.stale)):
                if text:
                    print(text)
            sys.stdout.flush()
            failed = failed or bool(problems([result]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What starting costs."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Job

_TIMES = 5


def flux_help(job: Job) -> dict[str, float]:
    """CPU of `flux --help` beyond that of `python -c pass`."""
    command = [str(Path(sys.executable).parent / "flux"), "--help"]
    return {"cpu_ms": _cost(command) - _cost([sys.executable, "-c", "pass"])}


def _cost(command: list[str]) -> float:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)  # compiled and in the cache from here on
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(_TIMES):
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / _TIMES * 1000

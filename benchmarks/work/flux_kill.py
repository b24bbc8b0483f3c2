"""A worker that is killed again and again: how many calls are made twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.measure import Job

_SESSION = "session.timeout.ms=6000"  # the group waits as long for who was killed


def killed(job: Job) -> dict[str, float]:
    """Option `kills`: how often. Each worker works for `job.seconds`, then another one goes on."""
    calls = Path(job.directory) / "calls"
    calls.touch()
    environment = {
        **os.environ,
        "BENCHMARK_TOPIC": job.topic,
        "BENCHMARK_GROUP": job.group,
        "BENCHMARK_CALLS": str(calls),
    }
    command = [sys.executable, "-m", "flux.cli.main", "process", "--load", str(Path(__file__).parent / "killing.py")]
    command += ["--adapter", f"confluent://{job.bootstrap}?{_SESSION}", "--create-topics", "Killed"]
    kills = job.options["kills"]
    for number in range(kills + 1):
        process = subprocess.Popen(command, env=environment)
        try:
            _wait_for_calls(calls)
            time.sleep(job.seconds)
        finally:
            if number < kills:
                process.kill()
            else:
                process.terminate()
            process.wait(60)
    made = Counter(calls.read_text().split("\n")[:-1])
    return {"repeated": (sum(made.values()) - len(made)) / kills, "calls": float(len(made))}


def _wait_for_calls(calls: Path) -> None:
    """That the next worker has begun."""
    before, deadline = calls.stat().st_size, time.monotonic() + 60
    while calls.stat().st_size == before:
        if time.monotonic() > deadline:
            raise SystemExit("no calls within a minute")
        time.sleep(0.05)

"""On a machine that has no time, with every call failing, nothing stands still. `make chaos` does it for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 20
TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(200)
def test_nothing_stands_still_in_a_storm_of_failures(bootstrap: str) -> None:
    """Three storms at once: each is what the others have no time for."""
    urls = ["memory://storm?partitions=4", f"confluent://{bootstrap}", f"aiokafka://{bootstrap}"]
    storms = [
        subprocess.Popen(
            [sys.executable, "-m", "integration.storm", url, str(SECONDS), "1"],
            cwd=TESTS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for url in urls
    ]
    try:
        ends = [storm.communicate(timeout=190)[0] for storm in storms]
    finally:
        for storm in storms:
            storm.kill()
            storm.wait()
    for storm, end in zip(storms, ends, strict=True):
        assert storm.returncode == 0, end[-20_000:]
        assert end.splitlines()[-1].startswith("well: ")

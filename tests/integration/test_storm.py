"""On a machine that has no time, with every call failing, nothing stands still. `make chaos` does it for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 20  # for each, a minute in all
TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("scheme", ["memory", "confluent", "aiokafka"])
def test_nothing_stands_still_in_a_storm_of_failures(scheme: str, bootstrap: str) -> None:
    place = "storm?partitions=4" if scheme == "memory" else bootstrap
    done = subprocess.run(
        [sys.executable, "-m", "integration.storm", f"{scheme}://{place}", str(SECONDS)],
        cwd=TESTS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=190,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    assert done.stdout.splitlines()[-1].startswith("well: ")

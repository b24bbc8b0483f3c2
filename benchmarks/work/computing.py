"""What `flux process` runs for `flux_scale`: about 0.2 ms of computing per record, marked in a file per process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import flux
from benchmarks.measure import compute


class Computing(flux.Task):
    topic = os.environ["BENCHMARK_TOPIC"]
    group_id = os.environ["BENCHMARK_GROUP"]
    retries = 0

    def setup(self) -> None:
        path = Path(os.environ["BENCHMARK_DIRECTORY"]) / str(os.getpid())
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY)
        self._calls = 0
        self._first = 0.0

    def call(self, message: flux.Message) -> None:
        self._first = self._first or time.time()
        compute()
        self._calls += 1
        os.pwrite(self._file, b"%9d %.6f %.6f" % (self._calls, self._first, time.time()), 0)

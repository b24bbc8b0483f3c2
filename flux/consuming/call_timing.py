"""Measures the calls of a run, for hooks that only count: one clock reading per call, and everything else once
per run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from operator import sub
from typing import Any

from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Move, Rules
from flux.core.error_text import error_name
from flux.core.hooks import CallsReport
from flux.system.return_values import own_failure, own_failures

clock = time.perf_counter


class Meter:
    """Of one run."""

    __slots__ = ("_batch", "_failures", "_rules", "_run", "_unmeant", "_wall", "ends")

    def __init__(self, run: Run, rules: Rules, wall: float) -> None:
        """`wall`: seconds since the epoch, now."""
        self._run = run
        self._rules = rules
        self._wall = wall
        self._batch = run.batched
        self.ends = [clock()]
        """The start of the first call, then the end of each."""
        self._failures: Counter[str] = Counter()
        self._unmeant: set[int] = set()
        """Indices of calls that found an outage, or in which the process failed."""

    def failed(self, message: Any, error: BaseException) -> None:
        """The call of a message, or of a batch, has raised."""
        failures: Sequence[BaseException]
        if self._batch:
            failures = list(own_failures(message, error).values())
        else:
            failures = [own_failure(error)]
        meant = [each for each in failures if self._rules.verdict(each).move in (Move.NEXT, Move.DEAD)]
        self._failures.update(error_name(type(each)) for each in meant)
        if not meant:
            self._unmeant.add(len(self.ends) - 1)
        self.ends.append(clock())

    def report(self) -> CallsReport:
        """The report; call it when the run's calls have ended."""
        ends, run = self.ends, self._run
        seconds = list(map(sub, ends[1:], ends))
        base = self._wall - ends[0]
        if self._batch:
            due_times = run.due_times(run.calls) if seconds else []
            starts: Sequence[float] = [ends[0]] * len(due_times)
        else:
            due_times, starts = run.due_times(len(seconds)), ends
        late = [start + base - due * 0.001 for start, due in zip(starts, due_times, strict=False) if due > 0]
        if late and min(late) < 0.0:
            late = [max(0.0, each) for each in late]
        if self._unmeant:
            seconds = [took for index, took in enumerate(seconds) if index not in self._unmeant]
        return CallsReport(len(due_times), seconds, late, self._failures, self._batch)

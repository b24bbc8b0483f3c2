"""Dispatch mode: the polling thread makes the calls itself while they are quick; slow calls are spread over threads.

To hand a record to another thread costs more than a quick call. So one caller processes a whole run until the watcher
finds it stuck. From then on all callers take records, one at a time at first. The more calls are quick again, the more
records a caller takes at once. When almost all calls are quick, one caller makes all of them again.

More callers help if calls wait, not if they compute. If the watcher itself runs late, the interpreter is busy: little
progress then proves nothing, and only a run without any progress over several checks is stuck.
"""

from __future__ import annotations

from collections.abc import Iterable

from flux.core.engine.runs import Run

QUICK = 0.0005
"""Longest duration of a quick call in seconds: about 25 times the cost of handing it over."""

CHECK_INTERVAL = 0.005
"""Seconds between two checks by the watcher."""

LEAST_PROGRESS = 10
"""Calls that a quick run makes between two checks."""

STANDSTILL = 4
"""Checks without any progress after which a run is stuck even if the interpreter is busy."""

CHUNK = 100
"""Records that one caller takes at once while calls are quick."""

_LATE = 1.5 * CHECK_INTERVAL
_PER_ENTRY = 16
"""Quick calls for each record more that a caller takes at once."""
_ENOUGH = 48
"""Score that ends the slow mode. A quick call adds one, a slow one halves the score. Doubled, up to `_MOST`, if the
quick mode before did not last."""
_MOST = 20_000
"""With this score, one slow call in 10,000 keeps the mode slow. At about that rate, the delay until a stuck call is
noticed costs as much as the key queues for the records between two such calls."""


class DispatchMode:
    """`slow` from the first stuck run until enough calls were quick."""

    __slots__ = ("_calm", "_checked_at", "_enough", "_score", "slow")

    def __init__(self) -> None:
        self.slow = False
        self._score = 0
        self._calm = _MOST  # calls since the slow mode ended
        self._enough = _ENOUGH
        self._checked_at = 0.0

    @property
    def chunk(self) -> int:
        return min(1 + self._score // _PER_ENTRY, CHUNK) if self.slow else CHUNK

    def stuck(self, runs: Iterable[Run], now: float) -> list[Run]:
        """The runs that are newly found stuck at this check."""
        late = now - self._checked_at > _LATE
        self._checked_at = now
        stuck = []
        for run in runs:
            run.started = min(run.started, now)  # the clock may have been set back
            index = run.index
            progress = index - run.seen
            if progress:
                run.seen, run.moved = index, now
            if run.checks < 0 or index >= run.limit or now - run.started < CHECK_INTERVAL:
                continue
            run.checks = 0 if progress else run.checks + 1
            if run.checks >= STANDSTILL or (progress < LEAST_PROGRESS and not late):
                run.checks = -1
                stuck.append(run)
        if stuck and not self.slow:
            self.slow = True
            self._score = 0
            self._enough = _ENOUGH if self._calm >= _MOST else min(2 * self._enough, _MOST)
        return stuck

    def took(self, seconds: float, calls: int) -> None:
        """One caller made `calls` calls in `seconds`."""
        if not self.slow:
            self._calm += calls
            return
        self._calm = 0
        if seconds <= QUICK * calls:
            self._score += calls
            self.slow = self._score < self._enough
        else:
            self._score //= 2

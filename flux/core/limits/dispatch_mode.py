"""Whether calls are quick, so that whoever polls makes them, or slow, so that they are spread over callers.

Handing a record to another thread costs more than a quick call. So a run is worked by one caller until a watcher sees
that it is slow; from then on all callers take records, one at a time. The more calls are quick again, the more of them
a caller takes at once; when next to all are, one caller makes them all again.

More callers help when calls wait, not when they compute. A watcher that comes late itself shows that the interpreter
is busy: then little progress proves nothing, and only a run that stands still for several looks is stuck.
"""

from __future__ import annotations

from collections.abc import Iterable

from flux.core.engine.runs import Run

QUICK = 0.0005
"""Seconds: a call up to this is quick. About 25 times what handing it over costs."""

LOOK = 0.005
"""Seconds between two looks of the watcher."""

LEAST_PROGRESS = 10
"""Calls that a quick run makes between two looks."""

STANDSTILL = 4
"""Looks without any progress after which a run is stuck however busy the interpreter is."""

CHUNK = 100
"""Entries that one caller takes at once while calls are quick."""

_LATE = 1.5 * LOOK
_PER_ENTRY = 16
"""Quick calls for each entry that a caller takes at once."""
_ENOUGH = 48
"""Quick calls after which calls are quick; a slow one halves what was counted. It is doubled each time that they were
not quick for long, up to `_MOST`."""
_MOST = 20_000
"""With so many, one slow call in 10,000 keeps them slow: about there, a stop of all calls until it is noticed costs as
much as the keys of the records between two of them."""


class DispatchMode:
    """Slow since a run was stuck, until calls are quick for a while."""

    __slots__ = ("_calm", "_enough", "_looked_at", "_score", "slow")

    def __init__(self) -> None:
        self.slow = False
        self._score = 0
        self._calm = _MOST  # calls since they were last slow
        self._enough = _ENOUGH
        self._looked_at = 0.0

    @property
    def chunk(self) -> int:
        return min(1 + self._score // _PER_ENTRY, CHUNK) if self.slow else CHUNK

    def stuck(self, runs: Iterable[Run], now: float) -> list[Run]:
        """Of the runs being worked, those that are stuck, each named once."""
        late = now - self._looked_at > _LATE
        self._looked_at = now
        stuck = []
        for run in runs:
            run.started = min(run.started, now)  # the clock may have been set back
            if run.looks < 0:
                continue
            index = run.index
            if index >= run.limit:
                continue
            if now - run.started < LOOK:
                run.seen = index
                continue
            progress, run.seen = index - run.seen, index
            run.looks = 0 if progress else run.looks + 1
            if run.looks >= STANDSTILL or (progress < LEAST_PROGRESS and not late):
                run.looks = -1
                stuck.append(run)
        if stuck and not self.slow:
            self.slow = True
            self._score = 0
            self._enough = _ENOUGH if self._calm >= _MOST else min(2 * self._enough, _MOST)
        return stuck

    def took(self, seconds: float, calls: int) -> None:
        """`calls` calls of one caller ended within `seconds`."""
        if not self.slow:
            self._calm += calls
            return
        self._calm = 0
        if seconds <= QUICK * calls:
            self._score += calls
            self.slow = self._score < self._enough
        else:
            self._score //= 2

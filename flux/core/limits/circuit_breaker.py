"""Whether a task may begin calls: none while an outage holds, and no more than its rate. One for all of its stages in
this process.

An outage is not a record's fault: whoever finds one pauses the task, and nothing is begun until one call, the probe,
has ended otherwise. The pause belongs to this process: a partition that another member takes over is tried there anew.
"""

from __future__ import annotations

from flux.core.engine.runs import Run

FIRST_PAUSE = 1.0
"""Seconds until the first probe; doubled by each one that finds the outage still there."""
LONGEST_PAUSE = 60.0
JITTER = 0.1
"""The part of a pause by which it may be longer, drawn, so that workers do not probe in step. Never shorter: a probe
just before the end of an outage would double the pause once more."""
UNBOUNDED = 1 << 30
_AT_ONCE = 0.01  # seconds of calls that one caller may begin at once
_CREDIT = 0.05  # seconds that callers may be late, as they are on a busy machine, and make up for it


class Gate:
    """`rate`: calls a second; None: any. Times in seconds by the clock of the engine."""

    __slots__ = ("_next", "_pause", "_probe", "_rate", "_span", "_until", "error", "since")

    def __init__(self, rate: float | None = None) -> None:
        self._rate = rate
        self._next = 0.0
        """When the next call may begin, as far as the rate goes."""
        self._until = 0.0
        self._span = 0.0
        """How long the pause was when it began."""
        self._pause = FIRST_PAUSE
        self._probe: Run | None = None
        self.since: float | None = None
        """When the task was paused; None: it is not."""
        self.error: BaseException | None = None
        """What it is paused for."""

    @property
    def paused(self) -> bool:
        return self.since is not None

    @property
    def limited(self) -> bool:
        """Whether runs must be as small as `most` says."""
        return self._rate is not None or self.since is not None

    def most(self, now: float) -> int:
        """Calls that may begin now."""
        if self.since is not None:
            if self._probe is not None or self._left(now) > 0:
                return 0
            return min(1, self._by_rate(now))
        return self._by_rate(now)

    def opens_at(self, now: float) -> float | None:
        """When a call may begin; `now` or earlier: it may. None: when the probe has ended, whenever that is."""
        if self._probe is not None:
            return None
        opens = now + max(self._left(now), 0.0) if self.since is not None else now
        return opens if self._rate is None else max(opens, min(self._next, now + 1 / self._rate + _CREDIT))

    def began(self, run: Run, calls: int, now: float) -> None:
        """A run with so many calls was handed out."""
        if self._rate is not None:
            behind = self._next if self._next <= now + 1 / self._rate + _CREDIT else now  # the clock was set back
            late = now - behind <= _CREDIT  # else nobody had anything to call
            self._next = (behind if late else now - _AT_ONCE) + calls / self._rate
        if self.since is not None:
            self._probe = run

    def ended(self, run: Run, called: bool) -> bool:
        """A run ended. Whether that ends the pause: it was the probe, which found no outage. `called`: it was begun at
        all."""
        if self._probe is not run:
            return False
        self._probe = None
        if called:
            self.since = self.error = None
            self._pause = FIRST_PAUSE
        return called

    def pause(self, run: Run | None, error: BaseException, seconds: float | None, drawn: float, now: float) -> bool:
        """A call of `run` found an outage. `seconds`: until the probe, where the call knew; `drawn`: from 0 to 1, at
        random. Whether it is news: it began the pause, or it was the probe."""
        probed, begun = run is not None and run is self._probe, self.since is None
        if probed:
            self._probe = None
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        if begun:
            self.since = now
        if begun or probed:
            self.error = error
            span = self._pause * (1 + JITTER * drawn) if seconds is None else seconds
            self._span, self._until = span, now + span
        elif seconds is not None and self._probe is None and now + seconds > self._until:
            self._span, self._until = seconds, now + seconds
        return begun or probed

    def _left(self, now: float) -> float:
        """Seconds until the probe."""
        left = self._until - now
        return left if left <= self._span + _CREDIT else 0.0  # the clock was set back

    def _by_rate(self, now: float) -> int:
        if self._rate is None:
            return UNBOUNDED
        behind = now - self._next
        if behind < 0:
            return 0 if -behind <= 1 / self._rate + _CREDIT else 1
        return 1 + int(min(behind, _AT_ONCE) * self._rate)

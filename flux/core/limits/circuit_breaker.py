"""Pauses calls while an outage lasts."""

from __future__ import annotations

from flux.core.limits.rate_limit import UNBOUNDED

FIRST_PAUSE = 1.0
"""Seconds until the first probe; doubled by each probe that finds the outage again."""
LONGEST_PAUSE = 60.0
JITTER = 0.1
"""A pause is longer by up to this part, at random, so that workers do not probe together. It is never shorter: a probe
just before the end of an outage would double the pause once more."""
_TOLERANCE = 0.05  # seconds; a probe further away than the pause was long means that the clock was set back


class CircuitBreaker:
    """Pauses a task while an outage lasts, which is not a record's fault. The call that finds one opens it: no call
    starts until one call, the probe, has ended otherwise. A pause is local to this process: another member that takes
    over a partition makes calls. Times in seconds by the engine's clock."""

    __slots__ = ("_pause", "_probe", "_span", "_until", "error", "since")

    def __init__(self) -> None:
        self._until = 0.0
        self._span = 0.0
        """Duration of the pause when it began."""
        self._pause = FIRST_PAUSE
        self._probe: object = None
        self.since: float | None = None
        """When the task was paused; None: it is not."""
        self.error: BaseException | None = None
        """The reason of the pause."""

    @property
    def paused(self) -> bool:
        return self.since is not None

    def is_probe(self, run: object) -> bool:
        return run is not None and run is self._probe

    def most(self, now: float) -> int:
        """Number of calls that may start now."""
        if self.since is None:
            return UNBOUNDED
        return 0 if self._probe is not None or self._left(now) > 0 else 1

    def opens_at(self, now: float) -> float | None:
        """When the next call may start; `now` or earlier: at once. None: after the running probe."""
        if self._probe is not None:
            return None
        return now if self.since is None else now + max(self._left(now), 0.0)

    def started(self, run: object) -> None:
        """A run was handed out; during a pause it is the probe."""
        if self.since is not None:
            self._probe = run

    def ended(self, run: object, called: bool) -> bool:
        """A run has ended. Returns whether that ends the pause: it was the probe and found no outage. `called`: whether
        it made a call at all."""
        if self._probe is not run:
            return False
        self._probe = None
        if called:
            self.since = self.error = None
            self._pause = FIRST_PAUSE
        return called

    def pause(self, run: object, error: BaseException, seconds: float | None, drawn: float, now: float) -> bool:
        """A call of `run` found an outage. `seconds`: until the probe, if the call decided; `drawn`: a random number
        from 0 to 1. Returns whether this is news: it began the pause, or it was the probe."""
        probed, begun = self.is_probe(run), self.since is None
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
        return left if left <= self._span + _TOLERANCE else 0.0

"""Whether a task may start calls: its circuit breaker and its rate limit together."""

from __future__ import annotations

from flux.core.engine.runs import Run
from flux.core.limits.circuit_breaker import CircuitBreaker
from flux.core.limits.rate_limit import RateLimit


class CallLimits:
    """Shared by all stages of a task in this process."""

    __slots__ = ("breaker", "rate_limit")

    def __init__(self, rate: float | None = None) -> None:
        self.breaker = CircuitBreaker()
        self.rate_limit = RateLimit(rate)

    @property
    def limited(self) -> bool:
        """Whether runs must be as small as `most`."""
        return self.rate_limit.rate is not None or self.breaker.paused

    def most(self, now: float) -> int:
        """Number of calls that may start now."""
        return min(self.breaker.most(now), self.rate_limit.most(now))

    def opens_at(self, now: float) -> float | None:
        """When the next call may start; `now` or earlier: at once. None: after the running probe."""
        opens = self.breaker.opens_at(now)
        return None if opens is None else max(opens, self.rate_limit.opens_at(now))

    def started(self, run: Run, calls: int, now: float) -> None:
        """A run with that many calls was handed out."""
        self.rate_limit.started(calls, now)
        self.breaker.started(run)

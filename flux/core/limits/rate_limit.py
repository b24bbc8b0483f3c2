"""Rate limit: how many calls per second a task may start, spread evenly. One for all of its stages in this process."""

from __future__ import annotations

UNBOUNDED = 1 << 30
_AT_ONCE = 0.01  # seconds of calls that one caller may start at once
_LATENESS = 0.05  # seconds that callers may be late, as on a busy machine, and still catch up


class RateLimit:
    """`rate`: calls per second; None: unlimited. Times in seconds by the engine's clock."""

    __slots__ = ("_next", "rate")

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self._next = 0.0
        """When the next call may start."""

    def most(self, now: float) -> int:
        """Number of calls that may start now."""
        if self.rate is None:
            return UNBOUNDED
        behind = now - self._next
        if behind < 0:
            return 0 if -behind <= 1 / self.rate + _LATENESS else 1  # further ahead: the clock was set back
        return 1 + int(min(behind, _AT_ONCE) * self.rate)

    def opens_at(self, now: float) -> float:
        """When the next call may start; `now` or earlier: at once."""
        return now if self.rate is None else max(now, min(self._next, now + 1 / self.rate + _LATENESS))

    def started(self, calls: int, now: float) -> None:
        """A run with that many calls was handed out."""
        if self.rate is None:
            return
        behind = self._next if self._next <= now + 1 / self.rate + _LATENESS else now  # the clock was set back
        late = now - behind <= _LATENESS  # otherwise there was nothing to call
        self._next = (behind if late else now - _AT_ONCE) + calls / self.rate

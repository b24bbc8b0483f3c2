"""At most so many calls a second: in all, or for each name."""

from __future__ import annotations

from flux.core.limits.name_limits import NameOf, NameResumed, Watcher

UNBOUNDED = 1 << 30
_AT_ONCE = 0.01  # seconds of calls that one caller may start at once
_LATENESS = 0.05  # seconds that callers may be late, as on a busy machine, and still catch up


class RateLimit:
    """Spreads calls evenly. `rate`: calls per second; None: unlimited. Times in seconds by the engine's clock."""

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

    def is_idle(self, now: float) -> bool:
        """Whether calls so far limit none that starts now."""
        return now - self._next > _LATENESS


_FEW_NAMES = 1_000
MOST_NAMES = 200_000
"""Names whose rates are counted; of more, those that were called last. Only rates below one call a second come near."""


class RateByName:
    """At most `rate` calls a second for each name; None: any number. Names that may be called at once are forgotten."""

    __slots__ = ("_limits", "_rate", "_sweep_at", "name_of", "watchers")
    setting = "rate_limit_key"
    pauses = False

    def __init__(self, rate: float | None, name_of: NameOf) -> None:
        self.name_of = name_of
        self.watchers: list[Watcher] = []
        self._rate = rate
        self._limits: dict[str, RateLimit] = {}
        """The name that was called last comes last."""
        self._sweep_at = _FEW_NAMES

    def __len__(self) -> int:
        """Number of names in memory."""
        return len(self._limits)

    @property
    def rate(self) -> float | None:
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        self._rate = rate
        for limit in self._limits.values():
            limit.rate = rate

    def opens_at(self, name: str, now: float) -> float:
        limit = self._limits.get(name)
        return now if limit is None else limit.opens_at(now)

    def started(self, name: str, call: object, now: float) -> None:
        limit = self._limits.pop(name, None)
        if limit is None:
            if len(self._limits) >= self._sweep_at:
                self._limits = {name: each for name, each in self._limits.items() if not each.is_idle(now)}
                self._sweep_at = _FEW_NAMES + 2 * len(self._limits)
            if len(self._limits) >= MOST_NAMES:
                del self._limits[next(iter(self._limits))]
            limit = RateLimit(self._rate)
        self._limits[name] = limit
        limit.started(1, now)

    def ended(self, name: str, call: object, called: bool) -> NameResumed | None:
        """Changes nothing."""
        return None

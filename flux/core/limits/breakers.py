"""Circuit breakers by name (`FailureRate(by=…)`): an outage of one host or tenant pauses the calls for it alone."""

from __future__ import annotations

import attrs

from flux.core.error_text import brief
from flux.core.limits.circuit_breaker import LONGEST_PAUSE, CircuitBreaker
from flux.core.limits.failure_rate import FailureCount, FailureRate
from flux.core.limits.name_limits import NameOf, NamePaused, NameResumed, Watcher

MOST_NAMES = 1_000
"""Names whose failures are counted: those that are paused, and those that failed last."""


def found_outage(
    breaker: CircuitBreaker, count: FailureCount, call: object, record: str, error: BaseException, now: float
) -> bool:
    """Whether `call` failed by an outage, as so many fail, and not by its record; all calls before it are counted."""
    count.failed(now)
    if count.paused:
        if not (breaker.is_probe(call) and count.is_to_blame(record)):
            return True
        breaker.pause(call, count.reason(brief(error)), None, 0.0, now)
        return False
    count.paused = not breaker.paused and count.exceeded(now)
    return count.paused


def _may_open(breaker: CircuitBreaker, now: float) -> bool:
    opens = breaker.opens_at(now)
    return opens is not None and opens <= now


@attrs.define(eq=False)
class _Name:
    count: FailureCount
    breaker: CircuitBreaker = attrs.Factory(CircuitBreaker)


class BreakersByName:
    """Of a task in this process. A call is an object that is the same from its start to its end."""

    __slots__ = ("_failed", "_look_at", "_names", "_paused", "_rate", "name_of", "watchers")
    setting = "pause_when"
    pauses = True

    def __init__(self, rate: FailureRate, name_of: NameOf) -> None:
        self.name_of = name_of
        self.watchers: list[Watcher] = []
        self._rate = rate
        self._names: dict[str, _Name] = {}
        """Names with a failure and without a pause, the last one last."""
        self._paused: dict[str, _Name] = {}
        self._failed: object = None
        """The call that has failed last: its end is counted already."""
        self._look_at = 0.0
        """When `forget` looks again."""

    def __len__(self) -> int:
        """Number of names in memory."""
        return len(self._names) + len(self._paused)

    @property
    def paused(self) -> dict[str, CircuitBreaker]:
        return {name: each.breaker for name, each in self._paused.items()}

    def opens_at(self, name: str, now: float) -> float | None:
        each = self._paused.get(name)
        return now if each is None else each.breaker.opens_at(now)

    def started(self, name: str, call: object, now: float) -> None:
        each = self._paused.get(name)
        if each is not None:
            each.breaker.started(call)

    def ended(self, name: str, call: object, called: bool) -> NameResumed | None:
        each = self._paused.get(name) or self._names.get(name)
        if each is None:
            return None
        failed, self._failed = call is self._failed, None
        if called and not failed:
            each.count.succeeded(1)
        probed, since = each.breaker.is_probe(call), each.breaker.since
        if not each.breaker.ended(call, called) or since is None:
            if probed:
                self._changed(name)  # another call may probe
            return None
        self._names[name] = self._paused.pop(name)
        each.count.resumed()
        self._changed(name)
        return NameResumed(name, since, len(self._paused))

    def counts(self, name: str) -> bool:
        """Whether failures of a name are counted from now on. False: so many others are paused that there is no
        room."""
        return self._of(name) is not None

    def is_outage(self, name: str, call: object, record: str, error: BaseException, now: float) -> bool:
        """`call` failed: whether by an outage of its name. `record`: identifies the record."""
        each = self._of(name)
        if each is None:
            return False
        self._failed = call
        probed = each.breaker.is_probe(call)
        outage = found_outage(each.breaker, each.count, call, record, error, now)
        if probed and not outage:
            self._changed(name)  # the pause goes on without this record: another one may be the next probe
        return outage

    def pause(
        self, name: str, call: object, error: BaseException, seconds: float | None, drawn: float, now: float
    ) -> NamePaused | None:
        """`call` found an outage of its name, which is counted, as `CircuitBreaker.pause`. None: that is no news."""
        each = self._paused.get(name)
        if each is None:
            each = self._paused[name] = self._names.pop(name)
        reason = each.count.reason(brief(error)) if each.count.paused else error
        news = each.breaker.pause(call, reason, seconds, drawn, now)
        self._changed(name)
        opens = each.breaker.opens_at(now)
        return NamePaused(name, opens - now, reason, len(self._paused) - 1) if news and opens is not None else None

    def forget(self, now: float) -> list[NameResumed]:
        """Ends the pauses of names of which no record is here any more, from time to time."""
        if now < self._look_at:
            return []
        self._look_at = now + LONGEST_PAUSE
        may_open = {name for name, each in self._paused.items() if _may_open(each.breaker, now)}
        if may_open:
            may_open.difference_update(*(each.names_for(self) for each in self.watchers))
        forgotten = [name for name in self._paused if name in may_open]
        return [NameResumed(name, self._paused.pop(name).breaker.since or now) for name in forgotten]

    def _of(self, name: str) -> _Name | None:
        """Makes room for a name; None: there is none."""
        each = self._paused.get(name)
        if each is not None:
            return each
        each = self._names.pop(name, None)
        if each is None:
            if len(self) >= MOST_NAMES:
                if not self._names:
                    return None
                del self._names[next(iter(self._names))]
            each = _Name(FailureCount(self._rate))
        self._names[name] = each
        return each

    def _changed(self, name: str) -> None:
        for watcher in self.watchers:
            watcher.freed(self, name)

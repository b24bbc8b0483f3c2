"""Circuit breakers by name (`FailureRate(by=…)`): an outage of one host or tenant pauses the calls for it alone."""

from __future__ import annotations

import attrs

from flux.core.error_text import brief
from flux.core.limits.circuit_breaker import CircuitBreaker
from flux.core.limits.failure_rate import FailureCount, FailureRate
from flux.core.limits.name_limits import NameOf, Watcher

MOST_NAMES = 1_000
"""Names whose failures are counted; of more, those that failed last."""


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


@attrs.define(eq=False)
class _Name:
    count: FailureCount
    breaker: CircuitBreaker = attrs.Factory(CircuitBreaker)


class BreakersByName:
    """Of a task in this process. A call is an object that is the same from its start to its end."""

    __slots__ = ("_failed", "_names", "_rate", "name_of", "watchers")
    setting = "pause_when"

    def __init__(self, rate: FailureRate, name_of: NameOf) -> None:
        self.name_of = name_of
        self.watchers: list[Watcher] = []
        self._rate = rate
        self._names: dict[str, _Name] = {}
        """Names with a failure, the last one last."""
        self._failed: object = None
        """The call that has failed last: its end is counted already."""

    def __len__(self) -> int:
        """Number of names in memory."""
        return len(self._names)

    @property
    def paused(self) -> dict[str, CircuitBreaker]:
        return {name: each.breaker for name, each in self._names.items() if each.breaker.paused}

    def opens_at(self, name: str, now: float) -> float | None:
        each = self._names.get(name)
        return now if each is None else each.breaker.opens_at(now)

    def started(self, name: str, call: object, now: float) -> None:
        each = self._names.get(name)
        if each is not None:
            each.breaker.started(call)

    def ended(self, name: str, call: object, called: bool) -> str | None:
        each = self._names.get(name)
        if each is None:
            return None
        failed, self._failed = call is self._failed, None
        if called and not failed:
            each.count.succeeded(1)
        probed, resumed = each.breaker.is_probe(call), each.breaker.ended(call, called)
        if probed:
            self._changed(name)  # another call may probe, or all may start
        if not resumed:
            return None
        each.count.resumed()
        return f"calls for {name!r} go on"

    def is_outage(self, name: str, call: object, record: str, error: BaseException, now: float) -> bool:
        """`call` failed: whether by an outage of its name. `record`: identifies the record."""
        each = self._names.pop(name, None)
        if each is None:
            if len(self._names) >= MOST_NAMES and not self._forget_one():
                return False
            each = _Name(FailureCount(self._rate))
        self._names[name] = each
        self._failed = call
        return found_outage(each.breaker, each.count, call, record, error, now)

    def pause(
        self, name: str, call: object, error: BaseException, seconds: float | None, drawn: float, now: float
    ) -> str | None:
        """`call` found an outage of its name, as `CircuitBreaker.pause`. Returns what to log, if that is news."""
        each = self._names.get(name)
        if each is None:
            each = self._names[name] = _Name(FailureCount(self._rate))
        reason = each.count.reason(brief(error)) if each.count.paused else error
        news = each.breaker.pause(call, reason, seconds, drawn, now)
        self._changed(name)
        opens = each.breaker.opens_at(now)
        if not news or opens is None:
            return None
        return f"calls for {name!r} are paused, others go on; the next one in {opens - now:.1f} s: {brief(reason)}"

    def _forget_one(self) -> bool:
        """Makes room for another name."""
        for name, each in self._names.items():
            if not each.breaker.paused:
                del self._names[name]
                return True
        return False

    def _changed(self, name: str) -> None:
        for watcher in self.watchers:
            watcher.freed(self, name)

"""Circuit breaker and rate limit hold together."""

from __future__ import annotations

from flux.core.engine.runs import Run
from flux.core.limits.call_limits import CallLimits
from flux.core.limits.rate_limit import UNBOUNDED
from unit.support.engine_support import T0


def test_a_pause_holds_beside_a_rate_and_the_rate_after_it() -> None:
    limits, probe = CallLimits(10), Run(1, T0)
    limits.breaker.pause(None, ConnectionError(), 5.0, 0.0, T0)
    assert limits.most(T0 + 4.9) == 0
    assert limits.most(T0 + 5.001) == 1
    limits.started(probe, 1, T0 + 5.001)
    limits.breaker.ended(probe, called=True)
    assert limits.most(T0 + 5.002) == 0
    assert limits.most(T0 + 5.2) == 1


def test_without_a_rate_and_a_pause_any_number_of_calls_may_start() -> None:
    limits = CallLimits()
    assert (limits.limited, limits.most(T0), limits.opens_at(T0)) == (False, UNBOUNDED, T0)
    limits.started(Run(5, T0), 5, T0)
    assert limits.most(T0) == UNBOUNDED


def test_a_rate_limits_without_a_pause_and_a_pause_without_a_rate() -> None:
    assert CallLimits(10).limited
    limits, probe = CallLimits(), Run(1, T0)
    limits.breaker.pause(None, ConnectionError(), 5.0, 0.0, T0)
    assert (limits.limited, limits.most(T0), limits.opens_at(T0)) == (True, 0, T0 + 5)
    limits.started(probe, 1, T0 + 5)
    assert limits.opens_at(T0 + 5) is None


def test_the_later_of_both_decides() -> None:
    limits = CallLimits(0.1)
    limits.started(Run(1, T0), 1, T0)
    limits.breaker.pause(None, ConnectionError(), 5.0, 0.0, T0)
    opens = limits.opens_at(T0)
    assert opens is not None
    assert T0 + 9 < opens <= T0 + 10

"""Calls are spread evenly, in all and by name."""

from __future__ import annotations

import pytest

from flux.core.limits import rate_limit
from flux.core.limits.rate_limit import UNBOUNDED, RateByName, RateLimit
from unit.support.engine_support import T0


def begun(limit: RateLimit, until: float, *, late: float = 0.0, now: float = T0, most: int = 10**6) -> list[float]:
    """When a caller that comes `late` seconds after each time that it is told begins its calls, from T0."""
    times: list[float] = []
    while now - T0 <= until:
        calls = min(limit.most(now), most)
        if calls:
            limit.started(calls, now)
            times += [now - T0] * calls
            continue
        opens = limit.opens_at(now)
        assert opens > now
        now = opens + late + 1e-6  # floats of this size are no finer
    return times


def largest_burst(times: list[float], seconds: float) -> int:
    return max(sum(since <= at < since + seconds for at in times) for since in times)


@pytest.mark.parametrize("rate", [0.5, 3, 50, 1000])
def test_calls_come_at_the_rate_and_not_in_bursts(rate: float) -> None:
    seconds = 10 / rate + 1
    times = begun(RateLimit(rate), seconds)
    assert len(times) == pytest.approx(rate * seconds, abs=2 + 0.02 * rate)
    assert largest_burst(times, 10 / rate) <= 10 + 1 + 0.01 * rate


def test_without_a_rate_any_number_of_calls_may_begin() -> None:
    limit = RateLimit()
    assert limit.most(T0) == UNBOUNDED
    assert limit.opens_at(T0) == T0


def test_a_caller_that_comes_late_makes_up_for_little_of_it() -> None:
    limit = RateLimit(10)
    assert limit.most(T0) == 1
    limit.started(1, T0)
    assert limit.most(T0 + 60) == 1  # not 600


def test_lateness_of_milliseconds_costs_no_calls() -> None:
    times = begun(RateLimit(500), 2.0, late=0.004)
    assert len(times) == pytest.approx(1000, rel=0.02)


def test_lateness_now_and_then_is_made_up_for() -> None:
    """As on a busy machine; a caller that had nothing to do makes up for nothing."""
    limit, now, calls = RateLimit(100), T0, 0
    while now < T0 + 10:
        opens_at = limit.opens_at(now)
        now = opens_at + (0.03 if calls % 10 == 0 else 0.0) + 1e-6
        limit.started(1, now)
        calls += 1
    assert calls == pytest.approx(1000, rel=0.01)


def test_a_run_of_several_calls_costs_several() -> None:
    limit = RateLimit(500)
    assert limit.most(T0) == 6
    limit.started(6, T0)
    assert limit.most(T0) == 0
    assert limit.opens_at(T0) == pytest.approx(T0 + 0.002, abs=0.0001)


def test_a_clock_that_is_set_back_does_not_stop_the_calls() -> None:
    limit = RateLimit(10)
    limit.started(1, T0)
    assert limit.most(T0 - 3600) == 1
    opens = limit.opens_at(T0 - 3600)
    assert opens <= T0 - 3600 + 0.2


def test_without_a_rate_calls_cost_nothing() -> None:
    limit = RateLimit()
    limit.started(5, T0)
    assert limit.opens_at(T0) == T0


def started(rate: float, *at: float) -> RateLimit:
    """A limit after one call at each of these times."""
    limit = RateLimit(rate)
    for now in at:
        limit.started(1, now)
    return limit


def test_the_first_call_may_start_at_once() -> None:
    assert RateLimit(10).most(0.0) == 1


def test_a_clock_set_back_by_more_than_a_callers_lateness_allows_a_call() -> None:
    limit = started(1, 0.0)
    assert [limit.most(-0.05), limit.most(-0.06), limit.most(-0.5)] == [0, 1, 1]


@pytest.mark.parametrize(("rate", "back", "opens"), [(1, 50.0, 51.0), (10, 99.0, 99.1), (10, 99.89, 99.99)])
def test_after_a_clock_was_set_back_calls_are_spread_from_then(rate: float, back: float, opens: float) -> None:
    limit = started(rate, 100.0, back)
    assert limit.opens_at(back) == pytest.approx(opens, abs=1e-6)


def test_a_clock_set_back_by_no_more_than_a_callers_lateness_changes_nothing() -> None:
    assert started(1, 0.0, -0.05).opens_at(-0.05) == 1.0


def test_calls_that_start_a_little_early_or_late_keep_the_rate() -> None:
    assert started(1, 0.0, 0.97).opens_at(1.5) == 2.0
    assert started(1, 0.05).opens_at(0.5) == 1.0
    assert started(1, 0.06).opens_at(0.5) == pytest.approx(1.05)


# ---- by name


def by_name(rate: float | None) -> RateByName:
    return RateByName(rate, lambda message: message.key)


def test_a_call_for_one_name_leaves_the_others_their_rate() -> None:
    limit = by_name(2)
    limit.started("a", object(), T0)
    assert limit.opens_at("a", T0) == pytest.approx(T0 + 0.49, abs=0.011)
    assert limit.opens_at("b", T0) == T0
    limit.ended("a", object(), True)
    limit.started("a", object(), T0 + 0.5)
    assert limit.opens_at("a", T0 + 0.5) > T0 + 0.9


def test_another_rate_is_that_of_each_name_at_once() -> None:
    limit = by_name(0.1)
    limit.started("a", object(), T0)
    limit.rate = 10
    assert limit.rate == 10
    assert limit.opens_at("a", T0) <= T0 + 0.2
    limit.started("b", object(), T0)
    assert limit.opens_at("b", T0) <= T0 + 0.1
    limit.rate = None
    assert limit.opens_at("a", T0) == T0


def test_names_without_a_call_for_some_time_are_forgotten() -> None:
    limit, now = by_name(100), T0
    for number in range(20_000):
        now += 0.0001
        limit.started(f"n{number}", object(), now)
    assert len(limit) <= 4_000


def test_a_name_is_not_forgotten_while_it_limits() -> None:
    limit = by_name(0.001)
    for number in range(3_000):
        limit.started(f"n{number}", object(), T0)
    assert len(limit) == 3_000
    assert limit.opens_at("n0", T0) > T0


def test_the_rates_of_so_many_names_are_counted_those_called_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_NAMES", 3)
    limit = RateByName(0.001, lambda message: message.key)
    for name in "abcad":
        limit.started(name, object(), 100.0)
    assert len(limit) == 3
    assert limit.opens_at("a", 101.0) > 101.0
    assert limit.opens_at("b", 101.0) == 101.0, "forgotten"

"""The rate limit, the circuit breaker, and both together."""

from __future__ import annotations

import pytest

from flux.core.engine.runs import Run
from flux.core.limits.call_limits import UNBOUNDED, CallLimits, CircuitBreaker, RateLimit
from flux.core.limits.failure_rate import FailureRate
from flux.core.limits.group_share import GroupShare
from unit.support.engine_support import T0, message, policy, record


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


OUTAGE = 30.0


def went_on(drawn: float) -> float:
    """Seconds after the begin of an outage at which the task goes on, its calls taking no time."""
    breaker, now = CircuitBreaker(), 0.0
    probe = Run(1, now)
    breaker.pause(probe, ConnectionError(), None, drawn, now)
    while breaker.paused:
        opens = breaker.opens_at(now)
        assert opens is not None
        now = opens
        assert breaker.most(now) == 1
        breaker.started(probe)
        if now < OUTAGE:
            breaker.pause(probe, ConnectionError(), None, drawn, now)
        else:
            breaker.ended(probe, called=True)
    return now


@pytest.mark.parametrize("drawn", [0.0, 0.5, 1.0])
def test_after_half_a_minute_a_task_goes_on_within_five_seconds_whatever_is_drawn(drawn: float) -> None:
    assert OUTAGE < went_on(drawn) <= OUTAGE + 5


def test_a_clock_that_is_set_back_does_not_lengthen_a_pause() -> None:
    breaker = CircuitBreaker()
    breaker.pause(None, ConnectionError(), None, 0.0, T0)
    assert breaker.most(T0 - 3600) == 1


def test_of_several_calls_that_find_the_same_outage_the_first_counts() -> None:
    breaker = CircuitBreaker()
    assert breaker.pause(Run(1, T0), ConnectionError("first"), None, 0.0, T0)
    assert not breaker.pause(Run(1, T0), ConnectionError("second"), None, 0.0, T0 + 0.9)
    assert breaker.opens_at(T0 + 0.9) == T0 + 1
    assert str(breaker.error) == "first"


def test_a_call_that_knows_how_long_it_lasts_lengthens_a_pause_and_never_shortens_it() -> None:
    breaker = CircuitBreaker()
    breaker.pause(None, ConnectionError(), 30.0, 0.0, T0)
    breaker.pause(None, ConnectionError(), 5.0, 0.0, T0 + 1)
    assert breaker.opens_at(T0 + 1) == T0 + 30
    breaker.pause(None, ConnectionError(), 60.0, 0.0, T0 + 1)
    assert breaker.opens_at(T0 + 1) == T0 + 61


def test_a_call_that_ends_during_the_probe_neither_ends_nor_prolongs_the_pause() -> None:
    breaker, probe, other = CircuitBreaker(), Run(1, T0), Run(1, T0)
    breaker.pause(None, ConnectionError(), None, 0.0, T0)
    breaker.started(probe)
    assert breaker.opens_at(T0 + 1) is None
    assert not breaker.ended(other, called=True)
    assert not breaker.pause(other, ConnectionError(), 500.0, 0.0, T0 + 2)
    assert breaker.ended(probe, called=True)
    assert breaker.most(T0 + 2) == UNBOUNDED


def test_a_run_without_a_pause_is_no_probe_and_a_probe_without_a_call_ends_no_pause() -> None:
    breaker, run = CircuitBreaker(), Run(1, T0)
    breaker.started(run)
    assert not breaker.ended(run, called=True)
    breaker.pause(None, ConnectionError(), None, 0.0, T0)
    breaker.started(run)
    assert not breaker.ended(run, called=False)
    assert breaker.paused


def test_a_new_circuit_breaker_limits_nothing() -> None:
    breaker = CircuitBreaker()
    assert (breaker.paused, breaker.error) == (False, None)
    assert (breaker.most(T0), breaker.opens_at(T0)) == (UNBOUNDED, T0)


def test_no_call_starts_before_the_probe_and_none_beside_it() -> None:
    breaker = CircuitBreaker()
    breaker.pause(None, ConnectionError(), None, 0.0, T0)
    assert breaker.most(T0 + 0.5) == 0
    assert (breaker.most(T0 + 1), breaker.opens_at(T0 + 5)) == (1, T0 + 5)
    breaker.started(Run(1, T0 + 1))
    assert breaker.most(T0 + 5) == 0


def test_after_a_probe_without_a_call_another_may_start() -> None:
    breaker, probe = CircuitBreaker(), Run(1, T0)
    breaker.pause(None, ConnectionError(), None, 0.0, T0)
    breaker.started(probe)
    breaker.ended(probe, called=False)
    assert breaker.most(T0 + 1) == 1


def test_a_pause_that_has_ended_leaves_nothing_behind() -> None:
    breaker, probe = CircuitBreaker(), Run(1, T0)
    breaker.pause(None, ConnectionError(), None, 0.0, T0)
    breaker.started(probe)
    breaker.pause(probe, ConnectionError(), 30.0, 0.0, T0 + 1)
    breaker.started(probe)
    assert breaker.ended(probe, called=True)
    assert (breaker.error, breaker.most(T0 + 2), breaker.opens_at(T0 + 2)) == (None, UNBOUNDED, T0 + 2)
    breaker.pause(None, ConnectionError(), None, 0.0, T0 + 2)
    assert breaker.opens_at(T0 + 2) == T0 + 3


def test_pauses_double_up_to_a_minute() -> None:
    breaker, probe, now, pauses = CircuitBreaker(), Run(1, T0), T0, []
    breaker.pause(None, ConnectionError(), None, 0.0, now)
    for _ in range(8):
        breaker.started(probe)
        breaker.pause(probe, ConnectionError(), None, 0.0, now)
        opens = breaker.opens_at(now)
        assert opens is not None
        pauses.append(opens - now)
        now = opens
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_a_call_that_knows_the_same_end_leaves_the_pause_as_it_was() -> None:
    breaker = CircuitBreaker()
    breaker.pause(None, ConnectionError(), 30.0, 0.0, T0)
    breaker.pause(None, ConnectionError(), 20.0, 0.0, T0 + 10)
    assert breaker.most(T0) == 0, "taken for a clock that was set back"


def test_a_clock_that_is_set_back_by_milliseconds_ends_no_pause() -> None:
    breaker = CircuitBreaker()
    breaker.pause(None, ConnectionError(), 1.0, 0.0, 0.0)
    assert (breaker.most(-0.05), breaker.most(-0.06)) == (0, 1)


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


# ---- pause_when

NO = ValueError("no")


def outage(limits: CallLimits, run: Run, offset: int = 0, successes: int = 0) -> bool:
    """Whether a failed call is an outage's; so many have succeeded that nobody has counted yet."""
    return limits.is_outage(run, message(record(offset)), NO, T0, lambda: limits.failure_count.succeeded(successes))


def test_without_a_rate_of_failures_none_is_an_outages() -> None:
    limits = CallLimits()
    assert not outage(limits, Run(1, T0))
    assert limits.pause_reason(NO) is NO


def test_the_failure_that_is_one_too_many_is_an_outages_and_so_are_those_after_it() -> None:
    limits, run = CallLimits(pause_when=FailureRate(0.3, of=10)), Run(5, T0)
    assert [outage(limits, run) for _ in range(4)] == [False, False, True, True]
    assert str(limits.pause_reason(NO)) == "4 of the last 4 calls failed, the last with ValueError: no"


def test_calls_that_have_succeeded_are_counted_first() -> None:
    limits, run = CallLimits(pause_when=FailureRate(0.2, of=10)), Run(5, T0)
    assert not outage(limits, run)
    assert not outage(limits, run, successes=10)
    assert limits.pause_reason(NO) is NO


def test_while_a_call_has_paused_the_task_failures_are_the_records_own() -> None:
    limits, run = CallLimits(pause_when=FailureRate(0.1, of=10)), Run(5, T0)
    limits.breaker.pause(None, ConnectionError(), 5.0, 0.0, T0)
    assert not outage(limits, run)


def test_a_record_that_fails_three_probes_is_to_blame_and_the_pause_goes_on() -> None:
    limits, first, probe = CallLimits(pause_when=FailureRate(0.1, of=10)), Run(5, T0), Run(1, T0)
    assert outage(limits, first)
    limits.breaker.pause(first, NO, None, 0.0, T0)
    limits.started(probe, 1, T0)
    assert outage(limits, Run(1, T0)), "in flight beside the probe"
    assert [outage(limits, probe, 7) for _ in range(3)] == [True, True, False]
    assert limits.breaker.paused
    assert not limits.breaker.is_probe(probe)


def test_a_probe_that_succeeds_ends_the_pause_and_the_count() -> None:
    limits, first, probe = CallLimits(pause_when=FailureRate(0.1, of=10)), Run(5, T0), Run(1, T0)
    assert outage(limits, first)
    limits.breaker.pause(first, NO, None, 0.0, T0)
    limits.started(probe, 1, T0)
    limits.ended(first, called=True)
    assert limits.failure_count.paused
    limits.ended(probe, called=True)
    assert (limits.breaker.paused, limits.failure_count.paused) == (False, False)


def test_a_share_of_the_partitions_is_a_share_of_the_rate() -> None:
    limits = CallLimits.of(policy(rate_limit=100.0, rate_limit_scope="group"))
    assert limits.share is not None
    limits.share.counted(0, 4)
    said = "rate limit: 22.5 of the group's 100 calls a second, as the share of its partitions"
    assert limits.owns(0, 1) == said
    assert limits.rate_limit.rate == pytest.approx(22.5)
    assert limits.owns(0, 1) is None
    assert limits.owns(0, 0) is None
    assert limits.rate_limit.rate == pytest.approx(22.5)
    limits.owns(0, 2)
    assert limits.rate_limit.rate == pytest.approx(45)


def test_the_rate_of_a_process_depends_on_no_partition() -> None:
    limits = CallLimits.of(policy(rate_limit=100.0))
    assert limits.owns(0, 1) is None
    assert (limits.share, limits.rate_limit.rate) == (None, 100)
    assert CallLimits(share=GroupShare(2)).owns(0, 1) is None


def test_another_rate_is_shared_like_the_tasks_own() -> None:
    limits, rates = CallLimits(None, share=GroupShare(0)), list[float | None]()
    limits.set_rate(100.0)
    rates.append(limits.rate_limit.rate)
    assert limits.share is not None
    limits.share.counted(0, 4)
    assert limits.owns(0, 1) is not None
    rates.append(limits.rate_limit.rate)
    for rate in (200.0, None):
        limits.set_rate(rate)
        assert limits.rate == rate
        rates.append(limits.rate_limit.rate)
    assert limits.owns(0, 2) is None
    assert rates == [100.0, 25.0, 50.0, None]


def test_another_rate_of_a_process_is_used_whole() -> None:
    limits = CallLimits(5.0)
    limits.set_rate(7.0)
    assert limits.rate_limit.rate == 7.0

"""The rate limit, the circuit breaker, and both together."""

from __future__ import annotations

import math

import pytest

from flux.core.control.standing import SetRate
from flux.core.engine.runs import Run
from flux.core.limits.call_limits import CallLimits
from flux.core.limits.concurrency import ConcurrencyByName
from flux.core.limits.failure_rate import FailureRate
from flux.core.limits.group_share import GroupShare
from flux.core.limits.rate_limit import UNBOUNDED, RateByName
from flux.core.message import Message
from unit.support.engine_support import T0, message, policy, record


def name_of(message: Message) -> bytes | None:
    return message.key


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
        rates.append(limits.rate_here)
    assert limits.owns(0, 2) is None
    assert rates == [100.0, 25.0, 50.0, None]


def test_with_a_key_the_rate_is_that_of_each_name() -> None:
    limits = CallLimits.of(policy(rate_limit=4.0, rate_limit_key=name_of, rate_limit_scope="group"))
    [rates] = limits.by_name
    assert isinstance(rates, RateByName)
    assert (limits.limited, limits.rate, rates.rate, limits.rate_limit.rate) == (False, 4, 4, None)
    assert limits.share is not None
    limits.share.counted(0, 9)
    assert limits.owns(0, 5) == "rate limit: 2 of the group's 4 calls a second, as the share of its partitions"
    assert rates.rate == pytest.approx(2)
    limits.set_rate(8)
    assert rates.rate == pytest.approx(4)


def test_a_key_of_concurrency_is_a_limit_by_name() -> None:
    [limit] = CallLimits.of(policy(concurrency_key=name_of, concurrency_per_key=3)).by_name
    assert isinstance(limit, ConcurrencyByName)
    assert limit.name_of is name_of
    assert CallLimits.of(policy()).by_name == []


def test_failures_by_name_pause_names_and_not_the_task() -> None:
    rate = FailureRate(0.1, of=10, by=name_of)
    limits = CallLimits.of(policy(pause_when=rate))
    assert limits.by_name == [limits.breakers]
    assert limits.breakers is not None
    assert limits.breakers.name_of is name_of
    assert not outage(limits, Run(1, T0))
    assert not limits.paused
    assert limits.breakers.counts("a")
    limits.breakers.pause("a", object(), NO, None, 0.0, T0)
    assert (limits.paused, limits.breaker.paused, limits.limited) == (True, False, False)
    assert CallLimits.of(policy(pause_when=FailureRate(0.1))).breakers is None


def test_another_rate_of_a_process_is_used_whole() -> None:
    limits = CallLimits(5.0)
    by_ada = SetRate("ada", 7.0, math.inf)
    limits.set_rate(7.0, by_ada)
    assert (limits.rate_limit.rate, limits.commanded_rate) == (7.0, by_ada)
    limits.set_rate(5.0)
    assert limits.commanded_rate is None

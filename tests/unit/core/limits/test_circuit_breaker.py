"""An outage pauses calls until a probe ends otherwise."""

from __future__ import annotations

import pytest

from flux.core.engine.runs import Run
from flux.core.limits.circuit_breaker import CircuitBreaker
from flux.core.limits.rate_limit import UNBOUNDED
from unit.support.engine_support import T0

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

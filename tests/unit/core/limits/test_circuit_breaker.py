"""The gate of a task: its rate, evenly spent, and what a clock that jumps does to it. Pauses: test_engine_pause.py."""

from __future__ import annotations

import pytest

from flux.core.engine.runs import Run
from flux.core.limits.circuit_breaker import UNBOUNDED, Gate
from unit.support.engine_support import T0


def begun(gate: Gate, until: float, *, late: float = 0.0, now: float = T0, most: int = 10**6) -> list[float]:
    """When a caller that comes `late` seconds after each time that it is told begins its calls, from T0."""
    times: list[float] = []
    while now - T0 <= until:
        calls = min(gate.most(now), most)
        if calls:
            gate.began(Run(calls, now), calls, now)
            times += [now - T0] * calls
            continue
        opens = gate.opens_at(now)
        assert opens is not None
        assert opens > now
        now = opens + late + 1e-6  # floats of this size are no finer
    return times


def largest_burst(times: list[float], seconds: float) -> int:
    return max(sum(since <= at < since + seconds for at in times) for since in times)


@pytest.mark.parametrize("rate", [0.5, 3, 50, 1000])
def test_calls_come_at_the_rate_and_not_in_bursts(rate: float) -> None:
    seconds = 10 / rate + 1
    times = begun(Gate(rate), seconds)
    assert len(times) == pytest.approx(rate * seconds, abs=2 + 0.02 * rate)
    assert largest_burst(times, 10 / rate) <= 10 + 1 + 0.01 * rate


def test_without_a_rate_any_number_of_calls_may_begin() -> None:
    gate = Gate()
    assert gate.most(T0) == UNBOUNDED
    assert not gate.limited
    assert gate.opens_at(T0) == T0


def test_a_caller_that_comes_late_makes_up_for_little_of_it() -> None:
    gate = Gate(10)
    assert gate.most(T0) == 1
    gate.began(Run(1, T0), 1, T0)
    assert gate.most(T0 + 60) == 1  # not 600


def test_lateness_of_milliseconds_costs_no_calls() -> None:
    times = begun(Gate(500), 2.0, late=0.004)
    assert len(times) == pytest.approx(1000, rel=0.02)


def test_lateness_now_and_then_is_made_up_for() -> None:
    """As on a busy machine; a caller that had nothing to do makes up for nothing."""
    gate, now, calls = Gate(100), T0, 0
    while now < T0 + 10:
        opens_at = gate.opens_at(now)
        assert opens_at is not None
        now = opens_at + (0.03 if calls % 10 == 0 else 0.0) + 1e-6
        gate.began(Run(1, now), 1, now)
        calls += 1
    assert calls == pytest.approx(1000, rel=0.01)


def test_a_run_of_several_calls_costs_several() -> None:
    gate = Gate(500)
    assert gate.most(T0) == 6
    gate.began(Run(6, T0), 6, T0)
    assert gate.most(T0) == 0
    assert gate.opens_at(T0) == pytest.approx(T0 + 0.002, abs=0.0001)


def test_a_clock_that_is_set_back_does_not_stop_the_calls() -> None:
    gate = Gate(10)
    gate.began(Run(1, T0), 1, T0)
    assert gate.most(T0 - 3600) == 1
    opens = gate.opens_at(T0 - 3600)
    assert opens is not None
    assert opens <= T0 - 3600 + 0.2


def test_a_clock_that_is_set_back_does_not_lengthen_a_pause() -> None:
    gate = Gate()
    gate.pause(None, ConnectionError(), None, 0.0, T0)
    assert gate.most(T0 - 3600) == 1


def test_of_several_calls_that_find_the_same_outage_the_first_counts() -> None:
    gate = Gate()
    assert gate.pause(Run(1, T0), ConnectionError("first"), None, 0.0, T0)
    assert not gate.pause(Run(1, T0), ConnectionError("second"), None, 0.0, T0 + 0.9)
    assert gate.opens_at(T0 + 0.9) == pytest.approx(T0 + 1)
    assert str(gate.error) == "first"


def test_a_call_that_knows_how_long_it_lasts_lengthens_a_pause_and_never_shortens_it() -> None:
    gate = Gate()
    gate.pause(None, ConnectionError(), 30.0, 0.0, T0)
    gate.pause(None, ConnectionError(), 5.0, 0.0, T0 + 1)
    assert gate.opens_at(T0 + 1) == pytest.approx(T0 + 30)
    gate.pause(None, ConnectionError(), 60.0, 0.0, T0 + 1)
    assert gate.opens_at(T0 + 1) == pytest.approx(T0 + 61)


def test_a_call_that_ends_during_the_probe_neither_ends_nor_prolongs_the_pause() -> None:
    gate, probe, other = Gate(), Run(1, T0), Run(1, T0)
    gate.pause(None, ConnectionError(), None, 0.0, T0)
    gate.began(probe, 1, T0 + 1)
    assert gate.opens_at(T0 + 1) is None
    assert not gate.ended(other, called=True)
    assert not gate.pause(other, ConnectionError(), 500.0, 0.0, T0 + 2)
    assert gate.ended(probe, called=True)
    assert gate.most(T0 + 2) == UNBOUNDED


def test_a_pause_holds_beside_a_rate_and_the_rate_after_it() -> None:
    gate, probe = Gate(10), Run(1, T0)
    gate.pause(None, ConnectionError(), 5.0, 0.0, T0)
    assert gate.most(T0 + 4.9) == 0
    assert gate.most(T0 + 5.001) == 1
    gate.began(probe, 1, T0 + 5.001)
    gate.ended(probe, called=True)
    assert gate.most(T0 + 5.002) == 0
    assert gate.most(T0 + 5.2) == 1

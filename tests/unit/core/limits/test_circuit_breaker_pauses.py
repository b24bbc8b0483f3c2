"""How long a task waits for the end of an outage."""

from __future__ import annotations

import pytest

from flux.core.engine.runs import Run
from flux.core.limits.circuit_breaker import Gate

OUTAGE = 30.0


def went_on(drawn: float) -> float:
    """Seconds after the begin of an outage at which the task goes on, its calls taking no time."""
    gate, now = Gate(), 0.0
    probe = Run(1, now)
    gate.pause(probe, ConnectionError(), None, drawn, now)
    while gate.paused:
        opens = gate.opens_at(now)
        assert opens is not None
        now = opens
        assert gate.most(now) == 1
        gate.began(probe, 1, now)
        if now < OUTAGE:
            gate.pause(probe, ConnectionError(), None, drawn, now)
        else:
            gate.ended(probe, called=True)
    return now


@pytest.mark.parametrize("drawn", [0.0, 0.5, 1.0])
def test_after_half_a_minute_a_task_goes_on_within_five_seconds_whatever_is_drawn(drawn: float) -> None:
    assert OUTAGE < went_on(drawn) <= OUTAGE + 5

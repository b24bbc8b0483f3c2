"""A function that gives names for a limit is timed, and named if it is slow."""

from __future__ import annotations

import pytest

import flux
from flux.consuming import call_timing
from flux.consuming.call_timing import SLOW_NAME, time_names
from flux.core.engine.commands import LogEvent
from flux.core.limits.rate_limit import RateByName
from flux.core.message import Message
from flux.testing import Kit
from unit.support.engine_support import message, record


class Clock:
    """Each name takes `seconds`, or each so many."""

    def __init__(self, seconds: float, every: int) -> None:
        self.seconds = seconds
        self.every = every
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def name_of(self, message: Message) -> str | None:
        self.now += self.seconds if message.offset % self.every == 0 else 0.0
        if message.offset % 2:
            raise LookupError
        return "acme"


def logged(monkeypatch: pytest.MonkeyPatch, seconds: float, names: int, every: int = 1) -> list[LogEvent]:
    clock, events = Clock(seconds, every), list[LogEvent]()
    monkeypatch.setattr(call_timing, "clock", clock)
    limit = RateByName(1.0, clock.name_of)
    time_names([limit], events.append)
    for number in range(names):
        if number % 2:
            with pytest.raises(LookupError):
                limit.name_of(message(record(number)))
        else:
            assert limit.name_of(message(record(number))) == "acme"
    return events


def test_a_slow_function_is_named_with_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    events = logged(monkeypatch, 0.0104, 250)
    text = "rate_limit_key took 10.4 ms a record for the last 100, in which no other call could start"
    assert [event.text.partition(":")[0] for event in events] == [text] * 2
    assert len({event.kind for event in events}) == 1


def test_a_quick_function_is_not_named_nor_one_that_waits_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logged(monkeypatch, SLOW_NAME / 2, 250) == []
    assert logged(monkeypatch, 0.05, 250, every=2) == []
    assert logged(monkeypatch, 30.0, 99) == []


def test_functions_of_a_task_are_timed(
    flux_kit: Kit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(call_timing, "SLOW_NAME", 0.0)

    @flux.task(topic="orders", group_id="billing", concurrency_key=lambda message: message.key)
    def billing(message: flux.Message) -> None: ...

    for number in range(200):
        flux_kit.produce("orders", str(number), key=str(number))
    flux_kit.run(billing)
    assert "concurrency_key took" in caplog.text

"""Log lines wait until a driver takes them."""

from __future__ import annotations

from flux.core.engine.commands import Level, LogEvent
from flux.core.monitoring.log_events import LogEvents
from unit.support.engine_support import P0


def test_lines_are_taken_once_and_in_order() -> None:
    log_events = LogEvents()
    log_events.add(Level.INFO, "one", about=P0, kind="kind")
    log_events.append(LogEvent(Level.ERROR, "two"))
    assert log_events.take() == [LogEvent(Level.INFO, "one", P0, "kind"), LogEvent(Level.ERROR, "two")]
    assert log_events.take() == []


def test_a_line_can_be_limited_to_its_first_time() -> None:
    log_events = LogEvents()
    for text in ("one", "two"):
        log_events.add(Level.INFO, text, once="headers")
    log_events.add(Level.INFO, "three", once="wait")
    assert [log_event.text for log_event in log_events.take()] == ["one", "three"]
    log_events.add(Level.INFO, "four", once="wait")
    assert log_events.take() == []

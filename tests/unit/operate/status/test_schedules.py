"""The schedules of a task: which tick waits, when the last one was called, and what was missed."""

from __future__ import annotations

from typing import Any

import pytest

import flux
from flux.config import resolve_adapter
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.report import ScheduleReport
from flux.core.schedules import Schedule, interval
from flux.operate.status.schedules import ScheduleStatus, schedules_of
from flux.operate.status.status import read_status
from flux.producing.registry import PRODUCERS
from flux.schedules import schedules_in
from flux.testing import Kit

HOUR, HOUR_MS = 3600, 3_600_000
OFTEN = Schedule("often", "every 60 s", interval(60_000), 30.0)


def task(**settings: Any) -> Any:
    attributes = {"topic": "reports", "group_id": "office", "retries": 1, "call": lambda self, message: None}
    return type("Report", (flux.Task,), {**attributes, **settings})


def status(report: Any) -> list[ScheduleStatus]:
    """As flux status reads it."""
    adapter = resolve_adapter(None)
    schedules, admin = schedules_in(report), adapter.admin()
    found = read_status(adapter, admin, report.policy(), None, schedules=schedules, system=PRODUCERS.system)
    return list(found.schedules)


def at_tick(flux_kit: Kit, seconds: float) -> int:
    """Moves the clock to the next multiple, which is returned in milliseconds."""
    flux_kit.clock.advance(seconds - flux_kit.clock.now() % seconds)
    return round(flux_kit.clock.now() * 1000)


def test_before_a_worker_has_started_no_tick_waits(flux_kit: Kit) -> None:
    report = task()
    report.every(seconds=HOUR, name="hourly")
    for topic in ("reports", "reports-office-try-1"):
        flux_kit.broker().create_topic(topic)
    [found] = status(report)
    assert (found.name, found.when, found.next_tick, found.last_tick) == ("hourly", "every 3600 s", None, None)
    assert found.is_overdue(0)
    assert (found.next_in_words(0), found.last_in_words) == ("no tick waits: start a worker with it", "not known")


def test_the_next_tick_and_the_last_one_are_in_the_topic(flux_kit: Kit) -> None:
    def call(self: Any, message: flux.Message) -> None:
        if int(message.headers.get("flux-tick") or 0) == tick:
            flux_kit.clock.advance(HOUR + 2)

    report = task(call=call)
    report.every(seconds=HOUR, name="hourly")
    flux_kit.run(report)
    tick = at_tick(flux_kit, HOUR)
    [found] = status(report)
    assert (found.next_tick, found.last_tick, found.is_overdue(tick + 6_000)) == (tick, None, True)
    assert found.next_in_words(tick + 60_000) == "due for 1.0 minute"
    assert flux_kit.run(report).done == 2
    [found] = status(report)
    last = tick + HOUR_MS
    assert (found.next_tick, found.last_tick, found.late, found.called) == (last + HOUR_MS, last, 2.0, True)
    assert (found.missed, found.not_called, found.missed_in_words) == (0, 0, "")
    assert found.last_in_words.endswith("Z, 2 seconds late")
    flux_kit.run(report)  # the record that a start writes does not count
    assert status(report) == [found]


@pytest.mark.parametrize(("max_late", "called"), [(None, True), (60, False)])
def test_what_was_missed_is_seen_with_the_tick_after_it(
    flux_kit: Kit, caplog: pytest.LogCaptureFixture, max_late: float | None, called: bool
) -> None:
    def call(self: Any, message: flux.Message) -> None:
        if int(message.headers.get("flux-tick") or 0) == tick:
            flux_kit.clock.advance(3.25 * HOUR)

    report = task(call=call)
    report.every(seconds=HOUR, name="hourly", max_late=max_late)
    flux_kit.run(report)
    tick = at_tick(flux_kit, HOUR)
    assert flux_kit.run(report).done == 1 + called
    [found] = status(report)
    assert (found.next_tick, found.last_tick, found.late) == (tick + 4 * HOUR_MS, tick + HOUR_MS, 2.25 * HOUR)
    assert (found.called, found.missed, found.not_called) == (called, 2, int(not called))
    [line] = [each.getMessage() for each in caplog.records if "hourly" in each.getMessage()]
    end = "called" if called else "not called, as max_late = 60 s"
    assert line == f"a tick of schedule hourly is 8,100 s late and is {end}; ticks after it that were missed: 2"


def test_ticks_of_a_schedule_that_the_code_does_not_have_are_shown(flux_kit: Kit) -> None:
    former, report = task(), task()
    former.every(seconds=HOUR, name="former")
    report.every(seconds=2 * HOUR, name="now")
    flux_kit.run(former)
    flux_kit.run(report)
    now, before = status(report)
    assert (now.name, now.when) == ("now", "every 7200 s")
    assert (before.name, before.when, before.next_in_words(0)[:2]) == ("former: every 3600 s", "", "in")


def test_a_task_without_schedules_reads_nothing(flux_kit: Kit) -> None:
    former, report = task(), task()
    former.every(seconds=HOUR)
    flux_kit.run(former)
    assert status(report) == []


def test_a_login_that_may_not_read_the_ticks_gets_the_rest(flux_kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any) -> None:
        raise BrokerError("no", Fault.DENIED)

    report = task()
    report.every(seconds=HOUR)
    flux_kit.run(report)
    monkeypatch.setattr("flux.operate.status.status.waiting_ticks", denied)
    assert status(report) == []


# -- with reports


def reported(tick: int, called: bool = True, missed: int = 0, not_called: int = 0) -> ScheduleReport:
    return ScheduleReport(OFTEN.title, tick, tick + 1500, called, missed, not_called)


def test_reports_say_what_happened_since_the_processes_started() -> None:
    [found] = schedules_of([OFTEN], [], [reported(120_000, False, 3, 1), reported(60_000, missed=2)])
    assert (found.last_tick, found.late, found.called) == (120_000, 1.5, False)
    assert (found.missed, found.not_called) == (5, 1)
    assert found.missed_in_words == "5 missed, 1 tick too late for a call"
    assert found.last_in_words == "1970-01-01 00:02:00Z, not called: 2 seconds late"

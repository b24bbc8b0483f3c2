from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import reminders
from reminders import Remind, appointment_cancelled, appointment_made

from flux.testing import Kit

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def flux_kit_options() -> dict[str, object]:
    return {"start": datetime(2026, 3, 27, 12, tzinfo=BERLIN)}  # a Friday, two days before the clocks change


@pytest.fixture(autouse=True)
def texts(flux_kit: Kit, monkeypatch: pytest.MonkeyPatch) -> list[tuple[datetime, str, str]]:
    sent: list[tuple[datetime, str, str]] = []
    monkeypatch.setattr(
        reminders,
        "send_text",
        lambda patient, text: sent.append((flux_kit.clock.datetime.astimezone(BERLIN), patient, text)),
    )
    return sent


def run_for(kit: Kit, days: int) -> None:
    for _ in range(days * 24):
        kit.run(Remind)
        kit.clock.advance(timedelta(hours=1))


def test_only_the_last_time_of_an_appointment_is_reminded_of(
    flux_kit: Kit, texts: list[tuple[datetime, str, str]]
) -> None:
    starts = datetime(2026, 3, 30, 9, tzinfo=BERLIN).astimezone(UTC)
    appointment_made(1, "ada", starts)
    appointment_made(1, "ada", starts + timedelta(days=1))
    appointment_made(2, "bob", starts)
    appointment_cancelled(2)
    run_for(flux_kit, 5)
    assert [(at.day, patient) for at, patient, _ in texts if patient != "team"] == [(30, "ada")]


def test_the_team_is_reminded_at_seven_on_weekdays(flux_kit: Kit, texts: list[tuple[datetime, str, str]]) -> None:
    run_for(flux_kit, 5)
    assert [(at.day, at.hour) for at, patient, _ in texts if patient == "team"] == [(30, 7), (31, 7), (1, 7)]

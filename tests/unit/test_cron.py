"""Cron expressions in a time zone, over the changes of its clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from flux.core.errors import ConfigurationError
from flux.cron import cron_ticks

pytest.importorskip("cronsim")
BERLIN = ZoneInfo("Europe/Berlin")


def ticks(expression: str, start: str, zone: str = "Europe/Berlin") -> Iterator[str]:
    _, next_tick = cron_ticks(expression, zone)
    at = round(datetime.fromisoformat(start).timestamp() * 1000)
    while True:
        later = next_tick(at)
        assert later > at
        at = later
        yield datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).isoformat(timespec="minutes")


def first(number: int, expression: str, start: str) -> list[str]:
    found = ticks(expression, start)
    return [next(found) for _ in range(number)]


def test_a_time_is_that_of_its_zone() -> None:
    assert first(2, "0 2 * * *", "2026-07-01T00:00+00:00") == ["2026-07-02T02:00+02:00", "2026-07-03T02:00+02:00"]
    assert first(1, "0 2 * * *", "2026-12-01T00:00+00:00") == ["2026-12-01T02:00+01:00"]


def test_a_sixth_field_in_front_is_seconds() -> None:
    _, next_tick = cron_ticks("*/20 * * * * *", "UTC")
    assert [next_tick(after) for after in (0, 20_000, 45_000)] == [20_000, 40_000, 60_000]


def test_a_daily_tick_in_the_hour_that_is_left_out_comes_once_after_it() -> None:
    assert first(3, "30 2 * * *", "2026-03-28T12:00+01:00") == [
        "2026-03-29T03:00+02:00",
        "2026-03-30T02:30+02:00",
        "2026-03-31T02:30+02:00",
    ]


@pytest.mark.parametrize("start", ["2026-10-24T12:00+02:00", "2026-10-25T02:15+02:00"])
def test_a_daily_tick_in_the_hour_that_comes_twice_comes_once(start: str) -> None:
    assert first(2, "30 2 * * *", start) == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]


@pytest.mark.parametrize("start", ["2026-10-25T02:15+01:00", "2026-10-25T02:45+01:00", "2026-10-25T02:30+02:00"])
def test_a_start_in_the_second_of_two_equal_hours_repeats_nothing(start: str) -> None:
    assert first(1, "30 2 * * *", start) == ["2026-10-26T02:30+01:00"]


def test_ticks_by_the_minute_go_on_over_a_change_of_the_clock() -> None:
    assert first(4, "*/30 * * * *", "2026-10-25T02:10+02:00") == [
        "2026-10-25T02:30+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T02:30+01:00",
        "2026-10-25T03:00+01:00",
    ]


def test_an_expression_is_named_with_its_zone() -> None:
    assert cron_ticks("0  2 * *  mon-fri", "UTC")[0] == "0 2 * * mon-fri UTC"


@pytest.mark.parametrize(
    ("expression", "zone", "told"),
    [
        ("0 25 * * *", "UTC", "Bad hour: give minute, hour"),
        ("nightly", "UTC", "give minute, hour"),
        ("* * */20 2 1L", "UTC", "there is no such time"),
        (5, "UTC", "give a cron expression"),
        ("0 2 * * *", "Europe/Berln", "give a name such as 'Europe/Berlin'"),
        ("0 2 * * *", "../etc", "give a name such as 'Europe/Berlin'"),
        ("0 2 * * *", None, "give a name such as 'Europe/Berlin'"),
    ],
)
def test_what_is_no_time_is_refused(expression: str, zone: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        cron_ticks(expression, zone)

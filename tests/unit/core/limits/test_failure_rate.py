"""From which share of failures on a task pauses, and when a record is to blame."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from flux.core.errors import ConfigurationError
from flux.core.limits import failure_rate
from flux.core.limits.failure_rate import FailureCount, FailureRate
from unit.support.engine_support import T0


def count_of(share: float = 0.5, of: int = 10, within: float = 30.0) -> FailureCount:
    return FailureCount(FailureRate(share, of=of, within=within))


def test_so_many_failures_are_too_many_whatever_came_between() -> None:
    count = count_of()
    for _ in range(4):
        count.failed(T0)
        count.succeeded(1)
    assert not count.exceeded(T0)
    count.failed(T0 + 29)
    assert count.exceeded(T0 + 30)
    assert str(count.reason("ValueError: no")) == "5 of the last 9 calls failed, the last with ValueError: no"


def test_failures_among_more_calls_are_the_records_own() -> None:
    count = count_of()
    for _ in range(100):
        count.failed(T0)
        count.succeeded(2)
    assert not count.exceeded(T0)


def test_failures_long_ago_do_not_count() -> None:
    count = count_of(within=30)
    for second in range(0, 100, 8):
        count.failed(T0 + second)
        assert not count.exceeded(T0 + second)


def test_failures_before_the_clock_was_set_back_do_not_count() -> None:
    count = count_of()
    for _ in range(5):
        count.failed(T0 + 1000)
    assert not count.exceeded(T0)


@pytest.mark.parametrize(("share", "of", "failures"), [(0.5, 100, 50), (0.07, 100, 7), (1, 3, 3), (0.001, 10, 1)])
def test_the_share_is_of_that_many_calls(share: float, of: int, failures: int) -> None:
    assert FailureRate(share, of=of).failures == failures


def test_without_a_rate_no_failure_is_too_many() -> None:
    count = FailureCount(None)
    count.failed(T0)
    assert not count.exceeded(T0)


def test_only_few_failures_are_remembered() -> None:
    count = count_of(of=10)
    for _ in range(1000):
        count.failed(T0)
        count.exceeded(T0)
    assert str(count.reason("X")) == "10 of the last 10 calls failed, the last with X"


def test_after_a_pause_the_count_begins_anew() -> None:
    count = count_of()
    for _ in range(5):
        count.failed(T0)
    count.paused = True
    count.resumed()
    assert (count.paused, count.exceeded(T0)) == (False, False)
    assert str(count.reason("X")) == "1 of the last 1 calls failed, the last with X"


def test_a_record_that_fails_three_probes_of_a_pause_is_to_blame_whatever_is_tried_between() -> None:
    count = count_of()
    assert [record for record in "aabaaabb" if count.is_to_blame(record)] == ["a", "b"]
    assert [record for record in "abaa" if count.is_to_blame(record)] == ["a"]


def test_failed_probes_are_counted_of_so_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_rate, "_MOST_PROBED", 2)
    count = count_of()
    assert not any(count.is_to_blame(record) for record in "aabbcaa"), "a is forgotten"
    assert count.is_to_blame("a")


def test_a_pause_between_probes_begins_anew() -> None:
    count = count_of()
    assert [count.is_to_blame("a") for _ in range(2)] == [False, False]
    count.resumed()
    assert not count.is_to_blame("a")


@pytest.mark.parametrize(
    ("share", "settings", "says"),
    [
        (0, {}, "pause_when: share = 0: give more than 0, at most 1"),
        (50, {}, "pause_when: share = 50: give more than 0, at most 1"),
        ("half", {}, "pause_when: share = 'half': give more than 0"),
        (0.5, {"of": 0}, "pause_when: of = 0: give a number of calls"),
        (0.5, {"of": 10.0}, "pause_when: of = 10.0: give a number of calls"),
        (0.5, {"within": 0}, "pause_when: within = 0: give seconds"),
        (0.5, {"within": "1m"}, "pause_when: within = '1m': give seconds"),
        (0.5, {"by": "host"}, "pause_when: by = 'host': give a plain function of the message, or None"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(share: Any, settings: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        FailureRate(share, **settings).check()
    assert str(error.value).startswith(says)


def test_valid_settings_are_taken() -> None:
    FailureRate(1).check()
    FailureRate(0.01, of=1, within=timedelta(minutes=5)).check()
    FailureRate(0.5, by=str).check()
    assert FailureRate(0.5, within=timedelta(minutes=5)).within == 300

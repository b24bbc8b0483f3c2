from __future__ import annotations

from flux.core.monitoring.log_throttle import MOST_KINDS, LogThrottle, and_more


def test_of_each_kind_there_is_a_line_a_minute_which_counts_those_left_out() -> None:
    throttle = LogThrottle()
    admitted = [(second, left) for second in range(125) if (left := throttle.admit("away", second)) is not None]
    assert admitted == [(0, 0), (60, 59), (120, 59)]


def test_kinds_are_apart() -> None:
    throttle = LogThrottle()
    assert [throttle.admit(kind, 0.0) for kind in "abab"] == [0, 0, None, None]
    assert [throttle.admit(kind, 60.0) for kind in "abab"] == [1, 1, None, None]


def test_a_line_may_be_about_many() -> None:
    throttle = LogThrottle()
    throttle.admit("lost", 0.0, 5)
    throttle.admit("lost", 1.0, 500)
    assert throttle.admit("lost", 61.0, 5) == 500


def test_however_many_kinds_there_are_few_are_kept() -> None:
    throttle = LogThrottle()
    for number in range(3 * MOST_KINDS):
        assert throttle.admit(number, number / 100) == 0
    assert len(throttle._next) == MOST_KINDS
    assert throttle.admit(3 * MOST_KINDS - 1, 15.0) is None


def test_nothing_is_said_of_none() -> None:
    assert and_more(0) == ""
    assert and_more(1200) == " (1,200 more like it were left out)"

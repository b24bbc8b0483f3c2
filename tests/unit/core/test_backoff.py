"""How long records wait: the published table, every kind of setting, and what is refused."""

from __future__ import annotations

import enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.backoff import JITTER_STEPS, Waits, default_wait, in_words
from flux.core.errors import ConfigurationError

DAY = 86400.0
DEFAULT = Waits(None, 30 * DAY)


class Seconds(float, enum.Enum):
    HALF = 0.5
    MINUTE = 60.0
    HUNDRED = 100.0
    YEAR = 365 * DAY


@pytest.mark.parametrize(
    ("stage", "mean"),
    [
        (1, "45 seconds"),
        (2, "~1.2 minutes"),
        (3, "~2.6 minutes"),
        (4, "~5.7 minutes"),
        (5, "~12.1 minutes"),
        (25, "~4.5 days"),
    ],
)
def test_the_published_table(stage: int, mean: str) -> None:
    assert in_words(DEFAULT.mean(stage)) == mean


def test_the_published_sum_of_25_stages() -> None:
    assert in_words(sum(DEFAULT.mean(stage) for stage in range(1, 26))) == "~25.0 days"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (0.5, "0.5 seconds"),
        (1, "1 second"),
        (9.75, "9.75 seconds"),
        (10.25, "10 seconds"),
        (59, "59 seconds"),
        (60, "~1.0 minute"),
        (3600, "~1.0 hour"),
        (5400, "~1.5 hours"),
        (DAY, "~1.0 day"),
    ],
)
def test_waits_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@given(st.integers(1, 30), st.integers(0, JITTER_STEPS - 1))
def test_the_default_is_sidekiqs_formula(stage: int, jitter: int) -> None:
    assert default_wait(stage, jitter) == stage**4 + 15 + jitter * (stage + 1)
    assert DEFAULT.seconds(stage, jitter) == default_wait(stage, jitter) <= DEFAULT.longest(stage)
    assert DEFAULT.longest(stage) == default_wait(stage, JITTER_STEPS - 1)


@pytest.mark.parametrize(
    ("setting", "waits"),
    [
        (5, [5, 5, 5]),
        (0.5, [0.5, 0.5, 0.5]),
        (0, [0, 0, 0]),
        ([1, 2], [1, 2, 2]),
        ((9,), [9, 9, 9]),
        (lambda stage: stage * 10, [10, 20, 30]),
        (Seconds.MINUTE, [60, 60, 60]),
        (lambda stage: Seconds.MINUTE, [60, 60, 60]),
        ([Seconds.HALF, Seconds.HUNDRED], [0.5, 100, 100]),
    ],
)
def test_every_kind_of_setting(setting: Any, waits: list[float]) -> None:
    made = Waits(setting, 100)
    made.check(3)
    assert [made.seconds(stage, 17) for stage in (1, 2, 3)] == waits
    assert [made.mean(stage) for stage in (1, 2, 3)] == waits


@pytest.mark.parametrize("setting", [None, 5, [5], lambda stage: 5])
def test_the_main_stage_never_waits(setting: Any) -> None:
    assert Waits(setting, 100).seconds(0, 29) == Waits(setting, 100).mean(0) == 0


def broken(stage: int) -> float:
    raise RuntimeError("no idea")


@pytest.mark.parametrize(
    "setting",
    [
        -1,
        float("nan"),
        float("inf"),
        101,
        True,
        "5",
        b"5",
        [],
        [1, -1],
        [1, 101],
        ["a"],
        ["5"],
        [None],
        [float("nan")],
        {1: 2},
        object(),
        lambda stage: None,
        lambda stage: "5",
        lambda stage: -1,
        lambda stage: 60 * stage,
        lambda stage: True,
        lambda: 5,
        broken,
    ],
)
def test_a_wait_that_cannot_be_is_refused_at_start_in_one_line(setting: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Waits(setting, 100).check(2)
    assert "\n" not in str(caught.value)
    assert "wait" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("5", "wait = '5': give seconds, a list of seconds, or stage -> seconds"),
        ([], "wait = []: give at least one number of seconds"),
        ([-1], "wait of stage 1 is -1: give a number of seconds, 0 or more"),
        ([1, "a"], "wait of stage 2 is 'a': give a number of seconds, 0 or more"),
        (101, "wait of stage 1 is 101 s, longer than max_delay (100 s): shorten it or raise max_delay"),
        (Seconds.YEAR, "wait of stage 1 is 3.1536e+07 s, longer than max_delay (100 s): shorten it or raise max_delay"),
        (10**400, f"wait of stage 1 is 1{'0' * 99}… and 301 characters more s, longer than max_delay"),
        (broken, "wait raised RuntimeError: no idea for stage 1: make it return seconds"),
    ],
)
def test_the_error_names_the_wait_and_the_remedy(setting: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Waits(setting, 100).check(2)
    assert str(caught.value).startswith(says)


def test_only_the_waits_of_the_tasks_own_stages_are_checked() -> None:
    Waits([60, 120], 100).check(1)
    with pytest.raises(ConfigurationError, match="stage 2"):
        Waits([60, 120], 100).check(2)
    with pytest.raises(ConfigurationError, match="stage 1"):
        Waits([120], 100).check(1)
    with pytest.raises(ConfigurationError, match="stage 1"):
        Waits(None, default_wait(1, 29) - 1).check(1)


def test_default_waits_beyond_the_longest_delay_are_refused_at_start() -> None:
    Waits(None, default_wait(5, 29)).check(5)
    with pytest.raises(ConfigurationError, match="stage 5"):
        Waits(None, default_wait(5, 29) - 1).check(5)


@pytest.mark.parametrize("longest", [-1, float("nan"), "1", None, True])
def test_a_longest_delay_that_cannot_be_is_refused(longest: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^max_delay"):
        Waits(None, longest).check(0)


def test_a_callable_that_breaks_its_word_later_is_an_error_and_no_wait() -> None:
    with pytest.raises(ConfigurationError):
        Waits(lambda stage: -5, 100).seconds(1, 0)

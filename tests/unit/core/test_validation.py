"""Settings are plain values within bounds, or an error in one line."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest

from flux.core.errors import ConfigurationError
from flux.core.validation import (
    LONGEST,
    check_choice,
    check_seconds,
    check_switch,
    check_whole,
    is_number,
    is_text,
    is_whole,
    plain,
    plainly,
    seconds,
    shown,
)


class Names(str, enum.Enum):  # noqa: UP042 - its str() is not its value, which is the point
    ORDERS = "orders"


class Numbers(enum.IntEnum):
    ONE = 1


class Seconds(float, enum.Enum):
    TENTH = 0.1


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("value", [Names.ORDERS, Numbers.ONE, Seconds.TENTH, True, None, "x", 1, 1.5, b"x", [1]])
def test_a_member_of_an_enum_is_its_value(value: Any) -> None:
    found = plain(value)
    assert found == value
    assert type(found) in (str, int, float, bool, type(None), bytes, list)


def test_settings_of_a_class_are_converted() -> None:
    @attrs.frozen(field_transformer=plainly)
    class Settings:
        name: str

    assert type(Settings(Names.ORDERS).name) is str


def test_a_duration_is_seconds_and_a_field_with_a_converter_keeps_it() -> None:
    @attrs.frozen(field_transformer=plainly)
    class Settings:
        wait: Any = attrs.field(converter=seconds)

    assert [seconds(value) for value in (timedelta(minutes=1.5), Seconds.TENTH, 3, None)] == [90.0, 0.1, 3, None]
    assert type(seconds(Seconds.TENTH)) is float
    assert Settings(timedelta(seconds=2)).wait == 2.0


def test_a_value_in_an_error_is_cut_and_in_one_line() -> None:
    assert shown(Names.ORDERS) == "'orders'"
    assert shown("x" * 1_000) == f"'{'x' * 99}… and 902 characters more"
    assert "\n" not in shown([1, "a\nb"])
    assert shown(Unprintable()) == "a value that cannot be shown (Unprintable)"


def test_what_counts_as_a_number_and_as_text() -> None:
    assert [value for value in (0, 1, -1, True, 1.0, 2**63) if is_whole(value)] == [0, 1]
    assert [value for value in (0, 0.5, -1, True, float("nan"), float("inf"), LONGEST) if is_number(value)] == [
        0,
        0.5,
        LONGEST,
    ]
    assert [value for value in ("x", "\ud800", b"x", None) if is_text(value)] == ["x"]


@pytest.mark.parametrize(
    ("check", "good", "bad", "says"),
    [
        (
            lambda value: check_whole("n", value, 1, 9),
            [1, 9],
            [0, 10, "1", 1.0],
            "a whole number, 1 or more, at most 9",
        ),
        (lambda value: check_seconds("n", value, 60), [0, 0.5, 60], [-1, 61, None], "seconds, 0 or more, at most 60"),
        (lambda value: check_switch("n", value), [True, False], [0, None], "True or False"),
        (lambda value: check_choice("n", value, ("a", "b"), " or c"), ["a", "b"], ["c", None, []], "one of a, b or c"),
        (lambda value: check_choice("n", value, ("a", "b")), ["a"], ["", "c"], "one of a, b"),
        (
            lambda value: check_whole("n", value, 0),
            [0, 2**63 - 1],
            [2**63],
            f"a whole number, 0 or more, at most {2**63 - 1}",
        ),
        (lambda value: check_seconds("n", value), [LONGEST], [LONGEST + 1], "seconds, 0 or more, at most 3153600000"),
    ],
)
def test_a_setting_out_of_bounds_is_an_error_that_says_what_to_give(
    check: Callable[[Any], None], good: list[Any], bad: list[Any], says: str
) -> None:
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ConfigurationError, match=rf"^n = {re.escape(shown(value))}: give {says}$"):
            check(value)

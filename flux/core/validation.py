"""Checks settings: plain values within bounds, or a ConfigurationError in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import attrs

from flux.core.error_text import cut, guarded
from flux.core.errors import ConfigurationError
from flux.core.text import one_line

LONGEST = 100 * 365 * 86400.0
"""Upper limit of any duration in seconds: timers and Kafka's timestamps do not hold more than a century."""
MOST = 2**63 - 1
"""Upper limit of any count."""
_MOST_SHOWN = 100
_PLAIN = (str, int, float, bool, type(None))
_EXACTLY: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__pos__),
    (float, float.__pos__),
)


def plain(value: Any) -> Any:
    """Turns a string or number of a subclass, such as an enum's member, into a plain one: its `str()`, format or hash
    may be another, such as the member's name. Any other value is returned unchanged."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    return next((exactly(value) for base, exactly in _EXACTLY if issubclass(kind, base)), value)


Seconds = float | timedelta
"""How users give a duration."""


def seconds(value: Any) -> Any:
    """The seconds of a timedelta; any other value as `plain` returns it."""
    return value.total_seconds() if isinstance(value, timedelta) else plain(value)


def plainly(_: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """A `field_transformer` for attrs classes of settings: converts each field that has no converter with `plain`."""
    return [field if field.converter is not None else field.evolve(converter=plain) for field in fields]


def shown(value: object) -> str:
    """A value for an error message: its repr in one line, cut. Never raises."""
    text = guarded(lambda: repr(plain(value)))
    if type(text) is not str:
        return f"a value that cannot be shown ({type(value).__name__})"
    return one_line(cut(text, _MOST_SHOWN))


def is_whole(value: object, least: int = 0, most: int = MOST) -> bool:
    return type(value) is int and least <= value <= most


def is_text(value: object) -> bool:
    """Whether it is a string that can be encoded: UTF-8 has no lone surrogates."""
    return isinstance(value, str) and guarded(value.encode) is not None


def is_number(value: object, least: float = 0, most: float = LONGEST) -> bool:
    """Whether it is a number within bounds; NaN is not."""
    return type(value) in (int, float) and least <= value <= most  # type: ignore[operator]


def check_whole(name: str, value: object, least: int, most: int = MOST) -> None:
    """Raises ConfigurationError, as the other checks do."""
    if not is_whole(value, least, most):
        raise ConfigurationError(f"{name} = {shown(value)}: give a whole number, {least} or more, at most {most}")


def check_seconds(name: str, value: object, most: float = LONGEST) -> None:
    if not is_number(value, 0, most):
        raise ConfigurationError(f"{name} = {shown(value)}: give seconds, 0 or more, at most {most:.0f}")


def check_switch(name: str, value: object) -> None:
    if type(value) is not bool:
        raise ConfigurationError(f"{name} = {shown(value)}: give True or False")


def check_choice(name: str, value: object, choices: Sequence[str], more: str = "") -> None:
    if type(value) is not str or value not in choices:
        raise ConfigurationError(f"{name} = {shown(value)}: give one of {', '.join(choices)}{more}")

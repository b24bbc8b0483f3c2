"""Template filters: numbers and times, with a dash for what is not known."""

from __future__ import annotations

from collections.abc import Callable

from flux.operate import formatting
from flux.operate.formatting import many, moment

_UNKNOWN = "—"


def count(number: float | None) -> str:
    return _UNKNOWN if number is None else f"{number:,.0f}"


def rate(per_second: float | None) -> str:
    return _UNKNOWN if per_second is None else formatting.rate(per_second)


def lasting(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else formatting.lasting(seconds)


def ago(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else "now" if seconds < 1 else f"{lasting(seconds)} ago"


def coming(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else formatting.coming(seconds)


def size(number: int | None) -> str:
    if number is None:
        return _UNKNOWN
    return f"{number / 1_000_000:,.0f} MB" if number >= 1_000_000 else f"{number / 1000:,.0f} kB"


FILTERS: dict[str, Callable[..., str]] = {
    each.__name__: each for each in (count, rate, lasting, ago, coming, size, moment, many)
}

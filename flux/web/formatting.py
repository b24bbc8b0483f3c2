"""How numbers and times are written on a page."""

from __future__ import annotations

from flux.core.backoff import in_words
from flux.operate.formatting import moment

__all__ = ["FILTERS", "ago", "count", "lasting", "moment", "rate", "size"]


def count(number: float | None) -> str:
    return "—" if number is None else f"{number:,.0f}"


def rate(number: float | None) -> str:
    """A second."""
    if number is None:
        return "—"
    return f"{number:,.0f}" if number >= 100 or number == 0 else f"{number:.1f}"


def lasting(seconds: float | None) -> str:
    if seconds is None:
        return "—"
    return in_words(round(seconds) if seconds >= 1 else round(max(seconds, 0.0), 1)).lstrip("~")


def ago(seconds: float | None) -> str:
    return "—" if seconds is None else "now" if seconds < 1 else f"{lasting(seconds)} ago"


def coming(seconds: float | None) -> str:
    return "—" if seconds is None else f"in {lasting(seconds)}" if seconds >= 1 else "now"


def size(number: int | None) -> str:
    if number is None:
        return "—"
    return f"{number / 1_000_000:,.0f} MB" if number >= 1_000_000 else f"{number / 1000:,.0f} kB"


FILTERS = {each.__name__: each for each in (count, rate, lasting, ago, coming, size, moment)}

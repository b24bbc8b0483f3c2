"""Options that say which dead letters are meant."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flux.cli.completion import task_names

if TYPE_CHECKING:
    from flux.operate.dlq.filters import Filter

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,18})\Z")
_FEWEST_DIGITS = 4
_HEX = set("0123456789abcdef")


def when(text: str) -> int:
    """A time in milliseconds since the epoch, from an age (90s, 30m, 2h, 3d, 1w) or an ISO time (UTC, without a zone:
    as flux shows times)."""
    number, unit = text[:-1], text[-1:]
    try:
        if unit in _UNITS:
            age = timedelta(**{_UNITS[unit]: float(number)}).total_seconds()
            if age < 0:
                raise ValueError(text)
            seconds = time.time() - age
        else:
            at = datetime.fromisoformat(text)
            seconds = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
        return max(0, round(seconds * 1000))
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{text!r} is no age such as 90s, 30m, 2h or 3d, and no time such as 2026-01-31T08:00"
        ) from None


def place(text: str) -> tuple[int, int]:
    """PARTITION:OFFSET as two numbers."""
    match = _PLACE.match(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no PARTITION:OFFSET, such as 0:17")
    return int(match[1]), int(match[2])


def _cause(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (_FEWEST_DIGITS <= len(value) <= 8 and set(value.lower()) <= _HEX):
        raise click.BadParameter(f"{value!r} is no cause: see `flux dlq causes`", ctx, parameter)
    return value.lower() if value is not None else None


def filter_options(command: F) -> F:
    """Adds the keyword arguments that `chosen` takes."""
    options = [
        click.option("--since", type=when, metavar="WHEN", help="Dead since: 90s, 30m, 2h, 3d, or an ISO time (UTC)."),
        click.option("--reason", metavar="REASON", help="error, exhausted, rejected, undecodable, expired or skipped."),
        click.option("--error", metavar="GLOB", help="The error's type, or type: message; such as '*timeout*'."),
        click.option("--key", metavar="KEY", help="The record's key."),
        click.option("--cause", metavar="ID", callback=_cause, help="One of those that flux dlq causes tells."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def chosen(choice: dict[str, Any]) -> Filter:
    from flux.operate.dlq.filters import Filter

    return Filter(choice["since"], choice["reason"], choice["error"], choice["key"], choice["cause"])


def words(count: int, names: str) -> Callable[[F], F]:
    """Arguments after an optional TASK: click itself would take the first word for the task."""

    def split(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str | None, ...]:
        if len(values) == count + 1:
            return values
        if len(values) == count:
            return None, *values
        raise click.UsageError(f"give [TASK] {names}", ctx)

    return click.argument("words", nargs=-1, metavar=f"[TASK] {names}", callback=split, shell_complete=task_names)

"""Options that several commands share."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,18})\Z")


def _override(ctx: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    from flux.config import override_adapter
    from flux.core.errors import ConfigurationError

    try:
        override_adapter(url)
    except ConfigurationError as error:
        raise click.UsageError(f"--adapter: {error}", ctx) from None
    return url


def load_option(command: F) -> F:
    return click.option(
        "--load",
        "sources",
        multiple=True,
        metavar="FILE_OR_MODULE",
        help="Your code: a file, or a dotted module. May be repeated.",
        shell_complete=code,
    )(command)


def task_argument(command: F) -> F:
    """One, or none where the code that was loaded has only one."""
    return click.argument("task", required=False, shell_complete=task_names)(command)


def adapter_option(command: F) -> F:
    return click.option(
        "--adapter",
        metavar="URL",
        callback=_override,
        expose_value=False,
        help="The cluster, such as confluent://localhost:9092; overrides FLUX_ADAPTER and flux.configure.",
    )(command)


def report_topic_option(command: F) -> F:
    """Workers and who reads what they report have to name the same topic."""
    return click.option(
        "--report-topic",
        envvar="FLUX_REPORT_TOPIC",
        show_envvar=True,
        metavar="NAME",
        help="The topic of reports; default: flux-reports.",
    )(command)


def task_names(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Of what --load names on the line so far. Code that fails completes to nothing, and what it prints is not heard:
    the shell would take it for an answer."""
    from flux.cli.load_code import load, tasks_in

    names: dict[str, None] = {}
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for source in ctx.params.get("sources") or ():
            try:
                names |= dict.fromkeys(found.name for found in tasks_in(load(source)) if found.task.topic)
            except Exception:
                continue
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def code(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell knows its files itself."""
    return [CompletionItem(incomplete, type="file")]


def task_and(count: int, names: str) -> Callable[[F], F]:
    """Arguments after an optional TASK: click itself would take the first word for the task."""

    def split(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str | None, ...]:
        if len(values) == count + 1:
            return values
        if len(values) == count:
            return None, *values
        raise click.UsageError(f"give [TASK] {names}", ctx)

    return click.argument("arguments", nargs=-1, metavar=f"[TASK] {names}", callback=split, shell_complete=task_names)


def parse_time(text: str) -> int:
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


def parse_place(text: str) -> tuple[int, int]:
    """PARTITION:OFFSET as two numbers."""
    match = _PLACE.match(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no PARTITION:OFFSET, such as 0:17")
    return int(match[1]), int(match[2])

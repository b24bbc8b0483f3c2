"""Options and arguments that several commands share, with their shell completion."""

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

GIVEN_ADAPTER = "flux.cli.adapter"
"""The key of `--adapter` in a context's `meta`."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,18})\Z")


def _override(ctx: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    from flux.config import override_adapter
    from flux.core.errors import ConfigurationError

    try:
        override_adapter(url)
    except ConfigurationError as error:
        raise click.UsageError(f"--adapter: {error}", ctx) from None
    ctx.meta[GIVEN_ADAPTER] = url
    return url


def load_option(command: F) -> F:
    return click.option(
        "--load",
        "sources",
        multiple=True,
        metavar="FILE_OR_MODULE",
        help="Your code: a file or a dotted module. Repeatable.",
        shell_complete=code,
    )(command)


def task_argument(command: F) -> F:
    """Optional where the loaded code has only one task."""
    return click.argument("task", required=False, shell_complete=task_names)(command)


def tasks_argument(command: F) -> F:
    """Several; all of the loaded code where none is named."""
    return click.argument("tasks", nargs=-1, metavar="[TASK]...", shell_complete=task_names)(command)


def adapter_option(command: F) -> F:
    return click.option(
        "--adapter",
        metavar="URL",
        callback=_override,
        expose_value=False,
        help="The cluster, such as confluent://localhost:9092. Overrides FLUX_ADAPTER and flux.configure.",
    )(command)


def every_option(least: float, default: float, help: str) -> Callable[[F], F]:
    interval = click.FloatRange(least, 3600)
    return click.option("--every", type=interval, default=default, show_default=True, metavar="SECONDS", help=help)


def json_option(help: str) -> Callable[[F], F]:
    return click.option("--json", "as_json", is_flag=True, help=help)


def report_topic_option(command: F) -> F:
    """Workers and the readers of their reports must name the same topic."""
    return click.option(
        "--report-topic",
        envvar="FLUX_REPORT_TOPIC",
        show_envvar=True,
        metavar="NAME",
        help="The topic of reports; default: flux-reports.",
    )(command)


def answer_timeout_option(command: F) -> F:
    return click.option(
        "--timeout",
        type=click.FloatRange(0, 600),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for the answers of workers.",
    )(command)


def task_names(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """From the --load options on the line so far. Code that fails completes to nothing, and its output is dropped, as
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
    """Leaves files to the shell."""
    return [CompletionItem(incomplete, type="file")]


def task_and(name: str) -> Callable[[F], F]:
    """An argument after an optional TASK; click itself would take the first one for the task."""

    def split(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str | None, ...]:
        if len(values) == 2:
            return values
        if len(values) == 1:
            return None, *values
        raise click.UsageError(f"give [TASK] {name}", ctx)

    return click.argument("arguments", nargs=-1, metavar=f"[TASK] {name}", callback=split, shell_complete=task_names)


def parse_time(text: str) -> int:
    """Milliseconds since the epoch, from an age (90s, 30m, 2h, 3d, 1w) or an ISO time (UTC if it has no zone)."""
    number, unit = text[:-1], text[-1:]
    try:
        if unit in _UNITS:
            age = _length(number, unit)
            if age < 0:
                raise ValueError(text)
            seconds = time.time() - age
        else:
            at = datetime.fromisoformat(text)
            seconds = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
        return max(0, round(seconds * 1000))
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{text!r} is neither an age such as 90s, 30m, 2h or 3d nor a time such as 2026-01-31T08:00"
        ) from None


def _length(number: str, unit: str) -> float:
    """Seconds."""
    return timedelta(**{_UNITS[unit]: float(number)}).total_seconds()


def parse_duration(text: str) -> float:
    """Seconds, from a number with a unit: 90s, 10m, 2h, 3d, 1w."""
    try:
        seconds = _length(text[:-1], text[-1:])
    except (KeyError, ValueError, OverflowError):
        seconds = 0.0
    if not seconds > 0:
        raise click.BadParameter(f"{text!r} is no time such as 90s, 10m, 2h or 3d")
    return seconds


def parse_place(text: str) -> tuple[int, int]:
    """PARTITION:OFFSET as two numbers."""
    match = _PLACE.match(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not PARTITION:OFFSET, such as 0:17")
    return int(match[1]), int(match[2])

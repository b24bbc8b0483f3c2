"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from flux.cli.completion import code, task_names

F = TypeVar("F", bound=Callable[..., Any])


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

"""What a shell completes beside commands and options: names of tasks, and files of code."""

from __future__ import annotations

import os
from contextlib import redirect_stderr, redirect_stdout

import click
from click.shell_completion import CompletionItem


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

"""`flux tasks`."""

from __future__ import annotations

import json
from typing import Any

import click

from flux.cli.options import json_option, load_option, tasks_argument


@click.command(
    epilog="""\b
Examples:
  flux tasks --load billing.py
  flux tasks --load shop.tasks --json | jq -r .topic"""
)
@load_option
@json_option("Print a JSON object per task.")
@tasks_argument
def command(sources: tuple[str, ...], as_json: bool, tasks: tuple[str, ...]) -> None:
    """List the tasks in your code: what flux process runs if no task is named. It needs no cluster."""
    from flux.cli.load_code import find_tasks
    from flux.cli.output import cell, console, table
    from flux.system.return_values import is_async
    from flux.task import BatchTask

    names = ["retries", "concurrency"]
    shown = table("task", "topic", "group", "retries", "concurrency", "call", "module", numbers=names)
    for cls in find_tasks(sources, tasks):
        policy = cls.policy()
        call = ("async " if is_async(cls.call) else "") + ("batch" if issubclass(cls, BatchTask) else "message")
        known: dict[str, Any] = {"task": cls.__name__, "topic": policy.stages.topic, "group": policy.stages.group}
        known |= {"retries": policy.stages.retries, "concurrency": policy.concurrency}
        known |= {"call": call, "module": cls.__module__}
        if as_json:
            click.echo(json.dumps(known))
        else:
            shown.add_row(*map(cell, known.values()))
    if not as_json:
        console().print(shown)

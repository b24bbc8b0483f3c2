"""`flux backoff`."""

from __future__ import annotations

import click

from flux.cli.options import load_option, task_argument

PUBLISHED = 25


@click.command(
    epilog="""\b
Examples:
  flux backoff
  flux backoff --stages 5
  flux backoff --load billing.py Billing"""
)
@load_option
@click.option(
    "--stages", type=click.IntRange(1, 100), metavar="N", help="Number of stages; default: the task's, else 25."
)
@task_argument
def command(sources: tuple[str, ...], stages: int | None, task: str | None) -> None:
    """Show how long records wait before each retry.

    The default wait of stage n is n**4 + 15 + randint(0, 29) * (n + 1) seconds, as in Super::Flux; its mean is shown.
    With a TASK, the waits of that task are shown.
    """
    from flux.cli.output import cell, console, table
    from flux.core.backoff import Waits, in_words
    from flux.core.policy import DAY

    waits, count = Waits(None, 30 * DAY), PUBLISHED
    if task is not None or sources:
        from flux.cli.load_code import find_task

        policy = find_task(sources, task).policy()
        waits, count = policy.waits, policy.stages.retries
    shown = table("stage", "wait", "total", numbers=["stage", "wait", "total"])
    total = 0.0
    for stage in range(1, (stages or count) + 1):
        wait = waits.mean(stage)
        total += wait
        shown.add_row(cell(stage), cell(in_words(wait)), cell(in_words(total)))
    if shown.row_count:
        console().print(shown)
    else:
        click.echo("no retries: a record that fails becomes a dead letter at once")

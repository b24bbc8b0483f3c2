"""`flux dlq import`."""

from __future__ import annotations

import click

from flux.cli.clusters import INTERRUPTED, interruptible
from flux.cli.dlq.selection import open_dead_letters
from flux.cli.options import adapter_option, load_option, task_and


@click.command(
    epilog="""\b
Examples:
  flux dlq import --load billing.py Billing billing.jsonl
  zcat billing.jsonl.gz | flux dlq import --load billing.py Billing -"""
)
@load_option
@adapter_option
@task_and(1, "FILE")
def command(sources: tuple[str, ...], arguments: tuple[str | None, str]) -> None:
    """Write lines from flux dlq export to a task's dead-letter topic. FILE - reads standard input.

    Records are appended with their timestamps. Those that the topic already has are there twice.
    """
    from flux.operate.dlq.exchange import BadLine, write_lines

    task, name = arguments
    file = click.File("rb").convert(name, None, click.get_current_context())
    with open_dead_letters(sources, task) as dead, interruptible() as should_stop:
        try:
            count = write_lines(dead.adapter, dead.admin, dead.stage.topic, file, should_stop)
        except BadLine as error:
            raise click.ClickException(str(error)) from None
        interrupted = should_stop()
    click.echo(f"{count:,} imported to {dead.stage.topic}" + ("; the rest was not read" if interrupted else ""))
    if interrupted:
        click.get_current_context().exit(INTERRUPTED)

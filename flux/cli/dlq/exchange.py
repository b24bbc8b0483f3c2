"""`flux dlq export` and `flux dlq import`."""

from __future__ import annotations

from itertools import islice
from typing import IO, Any

import click

from flux.cli.clusters import INTERRUPTED, interruptible
from flux.cli.dlq.selection import filter_from, filter_options, open_dead_letters
from flux.cli.options import adapter_option, load_option, task_and, task_argument


@click.command(
    epilog="""\b
Examples:
  flux dlq export --load billing.py Billing > billing.jsonl
  flux dlq export --load billing.py Billing --cause 5f0c2a91 | jq -r .value"""
)
@load_option
@adapter_option
@filter_options
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Export at most N.")
@click.option("--output", type=click.File("w", encoding="utf-8"), default="-", metavar="FILE", help="Default: stdout.")
@task_argument
def export_command(
    sources: tuple[str, ...], limit: int | None, output: IO[str], task: str | None, **choice: Any
) -> None:
    """Write a task's dead letters as lines of JSON, byte for byte, for flux dlq import or other tools.

    Keys, values and headers are strings where they are UTF-8, else {"base64": "..."}.
    """
    from flux.operate.dlq.exchange import to_line

    count = unreadable = 0
    with open_dead_letters(sources, task) as dead:
        for dead_letter in islice(dead.matching(filter_from(choice), not output.isatty()), limit):
            output.write(to_line(dead_letter.message) + "\n")
            count += 1
            unreadable += not dead_letter.message.headers_readable
        output.flush()
    lost = f"; {unreadable:,} without headers, which cannot be read" if unreadable else ""
    click.echo(f"{count:,} exported from {dead.stage.topic}{lost}", err=True)


@click.command(
    epilog="""\b
Examples:
  flux dlq import --load billing.py Billing billing.jsonl
  zcat billing.jsonl.gz | flux dlq import --load billing.py Billing -"""
)
@load_option
@adapter_option
@task_and("FILE")
def import_command(sources: tuple[str, ...], arguments: tuple[str | None, str]) -> None:
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

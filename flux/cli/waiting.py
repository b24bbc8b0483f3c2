"""`flux waiting`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from flux.cli.clusters import open_task
from flux.cli.options import adapter_option, json_option, load_option, task_argument

if TYPE_CHECKING:
    from flux.operate.waiting import WaitingRow


@click.command(
    epilog="""\b
Examples:
  flux waiting --load billing.py Billing
  flux waiting --load billing.py Billing --limit 1000 --json | jq -r .id"""
)
@load_option
@adapter_option
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, metavar="NUMBER", help="Most records."
)
@json_option("Print a JSON object per line.")
@task_argument
def command(sources: tuple[str, ...], limit: int, as_json: bool, task: str | None) -> None:
    """List the records that wait in a task's retry topics: failed ones, delayed work and ticks of schedules.

    Those that are due next come first. What was replaced or cancelled is left out. At most 10,000 records are read.
    """
    from flux.cli.output import cell, console, table
    from flux.operate.formatting import coming, key_of, moment, short
    from flux.operate.waiting import summarize

    with open_task(sources, task) as opened:
        summary = summarize(opened.adapter, opened.admin, opened.policy, limit)
    if as_json:
        for row in summary.first:
            click.echo(json.dumps(_object(row)))
        return
    now = time.time()
    shown = table("due", "due at", "stage", "key", "id or schedule", "attempt", "error", "record", numbers=["attempt"])
    for row in summary.first:
        parts: tuple[object, ...] = (
            coming(row.due / 1000 - now),
            moment(row.due),
            row.stage,
            short(key_of(row.key), 60),
            short(f"schedule {row.schedule}" if row.schedule else f"id {row.id}" if row.id else "", 60),
            row.attempt,
            short(row.why),
            f"{row.topic} {row.partition}:{row.offset}",
        )
        shown.add_row(*map(cell, parts))
    if summary.first:
        console().print(shown)
    else:
        click.echo("no record waits")
    if summary.count > len(summary.first):
        click.echo(f"\nonly the next {len(summary.first):,} of {summary.count:,} are shown: use --limit", err=True)
    if summary.unread:
        click.echo(f"{summary.unread:,} more offsets were not read", err=True)


def _object(row: WaitingRow) -> dict[str, Any]:
    """Times in milliseconds since the epoch."""
    from flux.operate.formatting import text_of

    return {
        "due": row.due,
        "stage": row.stage.number,
        "topic": row.topic,
        "partition": row.partition,
        "offset": row.offset,
        "key": None if row.key is None else text_of(row.key),
        "id": row.id or None,
        "schedule": row.schedule or None,
        "attempt": row.attempt,
        "error": row.error or None,
        "follows": row.follows,
        "written": row.written,
    }

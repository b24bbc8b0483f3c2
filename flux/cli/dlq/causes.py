"""`flux dlq causes`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from flux.cli.dlq.selection import filter_from, filter_options, open_dead_letters
from flux.cli.options import adapter_option, load_option, task_argument

if TYPE_CHECKING:
    from flux.operate.dlq.causes import CauseCount


@click.command(
    epilog="""\b
Examples:
  flux dlq causes --load billing.py Billing --since 1d
  flux dlq replay --load billing.py Billing --cause 5f0c2a91"""
)
@load_option
@adapter_option
@filter_options
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, metavar="N", help="Causes; 0: all.")
@click.option("--json", "as_json", is_flag=True, help="An object per line, for machines.")
@task_argument
def command(sources: tuple[str, ...], limit: int, as_json: bool, task: str | None, **choice: Any) -> None:
    """Group a task's dead letters by what went wrong, the most frequent first.

    Two have one cause when type, place and message of their error are the same, whatever numbers, ids and quoted
    strings are in the message.
    """
    from flux.cli.tables import cell, console, table
    from flux.operate.dlq.causes import Causes
    from flux.operate.formatting import many

    causes = Causes()
    with open_dead_letters(sources, task) as dead:
        for dead_letter in dead.matching(filter_from(choice), True):
            causes.add(dead_letter)
    ranked = causes.ranked()
    told = ranked[:limit] if limit else ranked
    if as_json:
        for tally in told:
            click.echo(json.dumps(_as_json(tally)))
        return
    if told:
        shown = table("cause", "count", "first seen", "last seen", "example", "error", numbers=["count"])
        for tally in told:
            shown.add_row(*map(cell, _row(tally)))
        console().print(shown)
        click.echo()
    total = f"{many(causes.total, 'dead letter')}, {many(len(ranked), 'cause')}"
    click.echo(total + _left(len(ranked) - len(told), causes.others))


def _left(causes: int, others: int) -> str:
    left = f"; {causes:,} not shown (--limit 0)" if causes else ""
    return left + (f"; {others:,} of still other causes" if others else "")


def _row(tally: CauseCount) -> tuple[object, ...]:
    from flux.operate.formatting import moment

    where = f" ({tally.cause.place})" if tally.cause.place else ""
    times = moment(tally.first_seen), moment(tally.last_seen)
    return tally.cause.id, tally.count, *times, tally.example.place, f"{tally.cause}{where}"


def _as_json(tally: CauseCount) -> dict[str, Any]:
    """Times in milliseconds since the epoch."""
    cause, example = tally.cause, tally.example
    return {
        "cause": cause.id,
        "count": tally.count,
        "first_seen": tally.first_seen,
        "last_seen": tally.last_seen,
        "error_type": cause.error_type,
        "place": cause.place,
        "message": cause.message,
        "example": {"partition": example.partition, "offset": example.offset, "error": example.error},
    }

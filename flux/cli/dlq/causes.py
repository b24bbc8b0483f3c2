"""`flux dlq causes`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from flux.cli.dlq.selection import filter_from, filter_options, limit_option, open_dead_letters
from flux.cli.options import adapter_option, json_option, load_option, task_argument

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
@limit_option(50)
@json_option("Print a JSON object per line.")
@task_argument
def command(sources: tuple[str, ...], limit: int, as_json: bool, task: str | None, **choice: Any) -> None:
    """Group a task's dead letters by cause, the most frequent first.

    Dead letters have the same cause when the type, the place in the code and the message of their errors are the
    same. Numbers, ids and quoted strings in messages do not count.
    """
    from flux.cli.output import cell, console, table
    from flux.operate.dlq.causes import Causes
    from flux.operate.formatting import many

    causes = Causes()
    with open_dead_letters(sources, task) as dead:
        for dead_letter in dead.matching(filter_from(choice), True):
            causes.add(dead_letter)
    ranked = causes.ranked()
    shown_causes = ranked[:limit] if limit else ranked
    if as_json:
        for cause_count in shown_causes:
            click.echo(json.dumps(_as_json(cause_count)))
        return
    if shown_causes:
        shown = table("cause", "count", "first seen", "last seen", "example", "error", numbers=["count"])
        for cause_count in shown_causes:
            shown.add_row(*map(cell, _row(cause_count)))
        console().print(shown)
        click.echo()
    total = f"{many(causes.total, 'dead letter')}, {many(len(ranked), 'cause')}"
    click.echo(total + _left(len(ranked) - len(shown_causes), causes.others))


def _left(causes: int, others: int) -> str:
    left = f"; {causes:,} not shown (--limit 0)" if causes else ""
    return left + (f"; {others:,} of further causes" if others else "")


def _row(cause_count: CauseCount) -> tuple[object, ...]:
    from flux.operate.formatting import moment

    where = f" ({cause_count.cause.place})" if cause_count.cause.place else ""
    times = moment(cause_count.first_seen), moment(cause_count.last_seen)
    return cause_count.cause.id, cause_count.count, *times, cause_count.example.place, f"{cause_count.cause}{where}"


def _as_json(cause_count: CauseCount) -> dict[str, Any]:
    """Times in milliseconds since the epoch."""
    cause, example = cause_count.cause, cause_count.example
    return {
        "cause": cause.id,
        "count": cause_count.count,
        "first_seen": cause_count.first_seen,
        "last_seen": cause_count.last_seen,
        "error_type": cause.error_type,
        "place": cause.place,
        "message": cause.message,
        "example": {"partition": example.partition, "offset": example.offset, "error": example.error},
    }

"""`flux dlq list`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from flux.cli.dlq.choosing import chosen, filter_options
from flux.cli.dlq.opening import opened
from flux.cli.options import adapter_option, load_option

if TYPE_CHECKING:
    from flux.operate.letters import Letter

_PAGE = 200  # rows whose columns are fitted to each other; a table of all would have to be held
_COLUMNS = ("at", "key", "reason", "error", "first failed", "attempts")


@click.command(
    epilog="""\b
Examples:
  flux dlq list --load billing.py Billing --since 2h
  flux dlq list --load billing.py Billing --error '*timeout*' --limit 0 --json | jq .key"""
)
@load_option
@adapter_option
@filter_options
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, metavar="N", help="0: all.")
@click.option("--json", "as_json", is_flag=True, help="An object per line, for machines.")
@click.argument("task", required=False)
def command(sources: tuple[str, ...], limit: int, as_json: bool, task: str | None, **choice: Any) -> None:
    """List a task's dead letters, each partition's oldest first.

    The topic keeps them all: also those that were replayed since.
    """
    from flux.cli.dlq import shown

    with opened(sources, task) as dead:
        letters = dead.letters(chosen(choice), not sys.stdout.isatty())
        listed = letters if limit == 0 else islice(letters, limit)
        if as_json:
            for letter in listed:
                click.echo(json.dumps(shown.as_json(letter)))
            return
        count = _print(listed)
        if not count:
            click.echo(f"no dead letters in {dead.stage.topic}" + (" match" if any(choice.values()) else ""))
        elif limit and next(letters, None) is not None:
            click.echo(f"\nthe first {limit:,}: there are more (--limit, --since)", err=True)


def _print(letters: Iterable[Letter]) -> int:
    """Page by page; the columns are as wide as in the first."""
    from flux.cli.tables import cell, console, table

    count, widths, out = 0, [len(name) for name in _COLUMNS], console()
    for page in _pages(letters):
        rows = [_row(letter) for letter in page]
        if not count:
            widths = [max(len(cell(row[i]).plain) for row in (*rows, _COLUMNS)) for i in range(len(_COLUMNS))]
        shown = table(*_COLUMNS, numbers=["attempts"])
        shown.show_header = not count
        for column, width in zip(shown.columns, widths, strict=True):
            column.min_width = min(width, 60)
        for row in rows:
            shown.add_row(*map(cell, row))
        out.print(shown)
        count += len(rows)
    return count


def _pages(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    iterator = iter(letters)
    while page := list(islice(iterator, _PAGE)):
        yield page


def _row(letter: Letter) -> tuple[object, ...]:
    from flux.cli.dlq.shown import key_of, moment, short

    return (
        letter.place,
        short(key_of(letter.message.key), 60),
        letter.reason,
        short(letter.error),
        moment(letter.first_failed_at),
        letter.attempts,
    )

"""`flux dlq list`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from flux.cli.dlq.selection import StateLookup, filter_from, filter_options, limit_option, open_dead_letters
from flux.cli.options import adapter_option, json_option, load_option, task_argument

if TYPE_CHECKING:
    from rich.console import Console

    from flux.operate.dlq.dead_letters import DeadLetter

    Behind = Callable[[DeadLetter], int | None]


_PAGE = 200  # rows of one table: all rows would not fit into memory
_GAP = "   "
_WIDEST_KEY = 24
_NARROWEST_ERROR = 16
_COLUMNS = ("at", "state", "key", "reason", "error", "first failed", "attempts")


@click.command(
    epilog="""\b
Examples:
  flux dlq list --load billing.py Billing --since 2h
  flux dlq list --load billing.py Billing --error '*timeout*' --limit 0 --json | jq .key"""
)
@load_option
@adapter_option
@filter_options
@click.option(
    "--state", type=click.Choice(["open", "replayed", "rejected"]), help="Only those that are open, replayed, rejected."
)
@limit_option(100)
@json_option("Print a JSON object per line.")
@task_argument
def command(
    sources: tuple[str, ...], state: str | None, limit: int, as_json: bool, task: str | None, **choice: Any
) -> None:
    """List a task's dead letters, each partition's oldest first.

    Those that are replayed or rejected are listed too: the topic keeps them.
    """
    with open_dead_letters(sources, task) as dead:
        states, behind = dead.states(), dead.behind()
        if state is not None and states.unknown:
            raise click.ClickException("--state needs DESCRIBE on the group of replays, which this login does not have")
        found = dead.matching(filter_from(choice), not sys.stdout.isatty())
        dead_letters = (each for each in found if state is None or states(each) == state)
        listed = dead_letters if limit == 0 else islice(dead_letters, limit)
        if as_json:
            for dead_letter in listed:
                held = {"behind": behind(dead_letter)} if dead.policy.on_dead == "hold" else {}
                click.echo(json.dumps({**row_object(dead_letter), "state": states(dead_letter) or None, **held}))
            return
        count = _print(listed, states, behind)
        if not count:
            filtered = any(choice.values()) or state is not None
            click.echo(f"no dead letters in {dead.stage.topic}" + (" match" if filtered else ""))
        elif limit and next(dead_letters, None) is not None:
            click.echo(f"\nonly the first {limit:,} are shown: use --limit or --since", err=True)


def _print(dead_letters: Iterable[DeadLetter], states: StateLookup, behind: Behind) -> int:
    """Page by page; the columns are as wide as on the first."""
    from rich.cells import cell_len

    from flux.cli.output import cell, console

    count, out = 0, console()
    widths = [cell_len(name) for name in _COLUMNS]
    for page in _pages(dead_letters):
        rows = [[cell(part).plain for part in _row(dead_letter, states, behind)] for dead_letter in page]
        if not count:
            widths = [max(width, *(cell_len(row[i]) for row in rows)) for i, width in enumerate(widths)]
        if out.is_terminal:
            _print_table(out, rows, widths, not count)
        else:
            _print_lines(rows, widths, not count)
        count += len(rows)
    return count


def _print_table(out: Console, rows: list[list[str]], widths: list[int], headed: bool) -> None:
    """Folds what does not fit, the error first."""
    from flux.cli.output import cell, table

    shown = table(*_COLUMNS, numbers=["attempts"])
    shown.show_header = headed
    fitted = [min(width, _WIDEST_KEY) if name == "key" else width for name, width in zip(_COLUMNS, widths, strict=True)]
    error = _COLUMNS.index("error")
    left = out.width - sum(fitted) + fitted[error] - len(_GAP) * (len(fitted) - 1)
    fitted[error] = max(_NARROWEST_ERROR, min(left, fitted[error]))
    for column, width in zip(shown.columns, fitted, strict=True):
        column.width = width
    for row in rows:
        shown.add_row(*map(cell, row))
    out.print(shown)


def _print_lines(rows: list[list[str]], widths: list[int], headed: bool) -> None:
    """The same for a pipe, which has no width."""
    from rich.cells import cell_len

    def line(row: Sequence[str]) -> str:
        padded = [part + " " * (width - cell_len(part)) for part, width in zip(row[:-1], widths, strict=False)]
        return _GAP.join([*padded, row[-1].rjust(widths[-1])])

    header = [line(_COLUMNS), "─" * (sum(widths) + len(_GAP) * (len(widths) - 1))] if headed else []
    click.echo("\n".join([*header, *map(line, rows)]))


def _pages(dead_letters: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    iterator = iter(dead_letters)
    while page := list(islice(iterator, _PAGE)):
        yield page


def _row(dead_letter: DeadLetter, states: StateLookup, behind: Behind) -> tuple[object, ...]:
    from flux.operate.formatting import key_of, moment, short

    held = behind(dead_letter)
    return (
        dead_letter.place,
        states(dead_letter) + ("" if held is None else f", {held:,} behind"),
        short(key_of(dead_letter.message.key), 60),
        dead_letter.reason,
        short(dead_letter.error),
        moment(dead_letter.first_failed_at),
        dead_letter.attempts,
    )


def row_object(dead_letter: DeadLetter) -> dict[str, Any]:
    """A row of `flux dlq list --json`. Times in milliseconds since the epoch; bytes that are not UTF-8 as
    \\xNN."""
    from flux.operate.dlq.causes import cause_of
    from flux.operate.formatting import text_of

    message = dead_letter.message
    return {
        "partition": dead_letter.partition,
        "offset": dead_letter.offset,
        "key": None if message.key is None else text_of(message.key),
        "reason": dead_letter.reason or None,
        "error_type": dead_letter.error_type or None,
        "error_message": dead_letter.error_message or None,
        "cause": cause_of(dead_letter).id,
        "first_failed_at": dead_letter.first_failed_at,
        "failed_at": dead_letter.failed_at,
        "attempts": dead_letter.attempts,
        "replays": dead_letter.replays,
        "id": message.id,
    }

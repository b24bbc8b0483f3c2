"""`flux dlq show`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from flux.cli.dlq.selection import open_dead_letters
from flux.cli.options import adapter_option, json_option, load_option, parse_place, task_and

if TYPE_CHECKING:
    from flux.operate.dlq.dead_letters import DeadLetter


@click.command(
    epilog="""\b
Examples:
  flux dlq show --load billing.py Billing 0:17
  flux dlq show --load billing.py Billing 0:17 --json | jq -r .value"""
)
@load_option
@adapter_option
@json_option("Print the record as flux dlq export does.")
@task_and("PARTITION:OFFSET")
def command(sources: tuple[str, ...], as_json: bool, arguments: tuple[str | None, str]) -> None:
    """Show one dead letter in full: its origin, its error, its headers and its value."""
    from flux.core.text import escape
    from flux.operate.dlq.exchange import to_line

    task, at = arguments
    partition, offset = parse_place(at)
    with open_dead_letters(sources, task) as dead:
        dead_letter = dead.one(partition, offset)
        state = "" if as_json else dead.states()(dead_letter)
        behind = None if as_json else dead.behind()(dead_letter)
    click.echo(to_line(dead_letter.message) if as_json else escape("\n".join(_lines(dead_letter, state, behind))))


def _lines(dead_letter: DeadLetter, state: str, behind: int | None) -> Iterator[str]:
    from flux.core.flux_headers import PREFIX
    from flux.core.text import one_line
    from flux.operate.dlq.causes import cause_of
    from flux.operate.formatting import key_of, many, moment, pretty, text_of

    message, parsed = dead_letter.message, dead_letter.message.flux_headers
    known = {
        "topic": f"{message.topic}[{dead_letter.partition}]@{dead_letter.offset}",
        "key": key_of(message.key) if message.key is not None else "(none)",
        "origin": "{}[{}]@{}".format(*parsed.origin) if parsed.origin else "not known",
        "produced": moment(parsed.origin_timestamp),
        "first failed": moment(dead_letter.first_failed_at),
        "last failed": moment(dead_letter.failed_at),
        "dead since": moment(dead_letter.written_at),
        "state": state,
        "holds key": "" if behind is None else f"{many(behind, 'record')} behind it",
        "attempts": str(dead_letter.attempts),
        "replays": str(dead_letter.replays) if dead_letter.replays else "",
        "reason": dead_letter.reason,
        "error": dead_letter.error,
        "cause": cause_of(dead_letter).id,
    }
    width = max(map(len, known)) + 2
    for name, text in known.items():
        if text:
            yield f"{name:<{width}}{one_line(text)}"
    if dead_letter.trace:
        yield from ("", dead_letter.trace.rstrip())
    own = [(name, value) for name, value in message.headers if not name.startswith(PREFIX)]
    if own:
        yield from ("", "headers")
        for name, value in own:
            yield f"  {one_line(name)}: {one_line(text_of(value)) if value is not None else '(null)'}"
    if not message.headers_readable:
        yield from ("", "headers: not readable, as a name is not UTF-8")
    yield from ("", pretty(message.raw_value))

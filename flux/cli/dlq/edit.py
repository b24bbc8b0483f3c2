"""`flux dlq edit`."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

import click

from flux.cli.dlq.replay import run_replay
from flux.cli.dlq.selection import by_option, force_option, open_dead_letters, to_option
from flux.cli.options import adapter_option, json_option, load_option, parse_place, task_and

if TYPE_CHECKING:
    from flux.core.message import Message
    from flux.operate.dlq.replay_plan import Edit


@click.command(
    epilog="""\b
Examples:
  flux dlq edit --load billing.py Billing 3:1207
  flux dlq edit --load billing.py Billing 3:1207 --key c43 --header tenant=eu
  flux dlq edit --load billing.py Billing 3:1207 --print > 3-1207.json
  flux dlq edit --load billing.py Billing 3:1207 --from 3-1207.json"""
)
@load_option
@adapter_option
@click.option("--print", "only_print", is_flag=True, help="Print the document to edit, for --from; write nothing.")
@click.option("--from", "source", type=click.File("rb"), metavar="FILE", help="The edited document; -: stdin.")
@click.option("--key", metavar="TEXT", help="Another key.")
@click.option("--value", type=click.File("rb"), metavar="FILE", help="Another value, as it is; -: stdin.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Set a header. Repeatable.")
@click.option("--remove-header", "removed", multiple=True, metavar="NAME", help="Remove a header. Repeatable.")
@to_option
@click.option("--again", is_flag=True, help="Even if it was replayed or rejected before.")
@force_option
@by_option
@json_option("Print the result as a JSON object.")
@task_and("PARTITION:OFFSET")
def command(
    sources: tuple[str, ...],
    only_print: bool,
    source: IO[bytes] | None,
    key: str | None,
    value: IO[bytes] | None,
    headers: tuple[str, ...],
    removed: tuple[str, ...],
    to: str,
    again: bool,
    force: bool,
    by: str | None,
    as_json: bool,
    arguments: tuple[str | None, str],
) -> None:
    """Retry a changed copy of one dead letter. The original stays where it is, marked as replayed.

    Without an option that changes it, it is opened in $EDITOR as a JSON document: key, value and headers are strings
    where they are UTF-8, else {"base64": "..."}. What is left as it is stays byte for byte.
    """
    from flux.operate.dlq.editing import changes, from_document, to_document, unedited
    from flux.operate.dlq.filters import Filter
    from flux.operate.dlq.replay_plan import ReplayOptions

    task, at = arguments
    place = parse_place(at)
    given = key is not None or value is not None or bool(headers) or bool(removed)
    if source is not None and given:
        raise click.UsageError("--from has all of it: leave out --key, --value, --header and --remove-header")
    with open_dead_letters(sources, task) as dead:
        dead_letter = dead.one(*place)
        message = dead_letter.message
        if only_print:
            click.echo(to_document(message), nl=False)
            return
        state = dead.states()(dead_letter)
        if state not in ("open", "") and not again:
            raise click.ClickException(f"{at} was {state} before: add --again to replay it all the same")
        try:
            if source is not None:
                edit = from_document(source.read(), message)
            elif given:
                edit = _changed(unedited(message), key, value, headers, removed)
            else:
                edit = _edited(message)
        except ValueError as error:
            raise click.ClickException(f"nothing was replayed: {error}") from None
        changed = changes(unedited(message), edit)
        if not changed:
            raise click.ClickException(f"nothing was changed: to replay it as it is, flux dlq replay --only {at}")
        options = ReplayOptions(
            Filter(only=frozenset({place})), to == "main", max_replays=10**6, again=again, edits={place: edit}
        )
        run_replay(dead, options, force, as_json, "edit", by, {"changed": changed})


def _changed(
    edit: Edit, key: str | None, value: IO[bytes] | None, headers: tuple[str, ...], removed: tuple[str, ...]
) -> Edit:
    import attrs

    from flux.operate.dlq.editing import with_header

    if key is not None:
        edit = attrs.evolve(edit, key=key.encode("utf-8", "surrogateescape"))
    if value is not None:
        edit = attrs.evolve(edit, value=value.read())
    for name in removed:
        edit = with_header(edit, name, None)
    for each in headers:
        name, equals, text = each.partition("=")
        if not equals:
            raise click.UsageError(f"--header {each}: give NAME=VALUE")
        edit = with_header(edit, name, text)
    return edit


def _edited(message: Message) -> Edit:
    """As it was left in the editor. Raises ValueError."""
    from flux.operate.dlq.editing import from_document, to_document, unedited

    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal for an editor: use --from, --key, --value or --header")
    text: str | None = to_document(message)
    while True:
        text = click.edit(text, extension=".json")
        if text is None:
            return unedited(message)
        try:
            return from_document(text, message)
        except ValueError as error:
            click.echo(str(error), err=True)
            if not click.confirm("Edit it again?", default=True, err=True):
                raise

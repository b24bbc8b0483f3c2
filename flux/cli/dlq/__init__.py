"""`flux dlq`."""

from __future__ import annotations

import click

from flux.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("listing", "List dead letters."),
    "show": ("show", "Show all of one."),
    "causes": ("causes", "Group them by what went wrong."),
    "replay": ("replay", "Try them again."),
    "purge": ("purge", "Delete them up to a point, for good."),
    "export": ("export", "Write them as lines of JSON."),
    "import": ("importing", "Write exported ones to a task's dead letters."),
}


class DlqCommands(LazyGroup):
    package = "flux.cli.dlq"
    known = COMMANDS


@click.group(cls=DlqCommands, epilog="See a command's options and examples with flux dlq COMMAND --help.")
def command() -> None:
    """Look at a task's dead letters, find out why they are there, and try them again."""

"""`flux dlq`."""

from __future__ import annotations

import click

from flux.cli import LazyGroup

COMMANDS = {
    "list": ("listing", "List dead letters."),
    "show": ("show", "Show one dead letter in full."),
    "causes": ("causes", "Group dead letters by cause."),
    "replay": ("replay", "Retry dead letters."),
    "edit": ("edit", "Retry a changed copy of one dead letter."),
    "reject": ("reject", "Mark dead letters as not to be replayed."),
    "history": ("history", "Show who replayed, edited, rejected or purged what."),
    "purge": ("purge", "Delete dead letters up to a point, for good."),
    "export": ("exchange:export_command", "Write dead letters as lines of JSON."),
    "import": ("exchange:import_command", "Write exported dead letters back to their topic."),
}


class DlqCommands(LazyGroup):
    package = "flux.cli.dlq"
    known = COMMANDS


@click.group(cls=DlqCommands, epilog="See a command's options and examples with flux dlq COMMAND --help.")
def command() -> None:
    """Inspect a task's dead letters, find their causes, and replay them."""

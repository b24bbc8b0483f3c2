"""`flux dlq`: knows its commands by name, and imports one when it runs."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "list": ("listing", "List dead letters."),
    "show": ("show", "Show all of one."),
    "causes": ("causes", "Group them by what went wrong."),
    "replay": ("replay", "Try them again."),
    "purge": ("purge", "Delete them up to a point, for good."),
    "export": ("export", "Write them as lines of JSON."),
    "import": ("importing", "Write exported ones to a task's dead letters."),
}


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"flux.cli.dlq.{COMMANDS[cmd_name][0]}").command
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, epilog="See a command's options and examples with flux dlq COMMAND --help.")
def command() -> None:
    """Look at a task's dead letters, find out why they are there, and try them again."""

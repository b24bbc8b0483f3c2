"""The pages about commands name every option that there is. That what they show can be given: test_docs.py."""

from __future__ import annotations

import re
from pathlib import Path

import click

from flux.cli.dlq import COMMANDS
from flux.cli.dlq import command as dlq
from flux.cli.main import cli

DOCS = Path(__file__).parents[3] / "docs" / "how-to"
DEAD_LETTERS = (DOCS / "dead-letters.md").read_text()
STATUS = (DOCS / "status.md").read_text()


def options(group: click.Group, name: str) -> set[str]:
    found = group.get_command(click.Context(group), name)
    assert found is not None, name
    return {option for each in found.params for option in each.opts if option.startswith("--")}


def test_every_command_and_every_choice_about_dead_letters_is_in_the_text() -> None:
    assert all(re.search(rf"flux dlq {name}\b", DEAD_LETTERS) for name in COMMANDS)
    missing = {option for name in COMMANDS for option in options(dlq, name) if option not in DEAD_LETTERS}
    assert missing <= {"--adapter", "--output", "--json"}, missing


def test_every_option_of_status_trace_and_skip_is_in_the_text() -> None:
    for name in ("status", "trace", "skip"):
        missing = {option for option in options(cli, name) if option not in STATUS}
        assert missing <= {"--adapter"}, (name, missing)


def test_every_option_of_commands_to_workers_is_in_the_text() -> None:
    text = (DOCS / "commands.md").read_text()
    for name in ("pause", "resume", "set-rate", "restart"):
        assert f"flux {name}" in text
        missing = {option for option in options(cli, name) if option not in text + STATUS}
        assert missing <= {"--adapter"}, (name, missing)

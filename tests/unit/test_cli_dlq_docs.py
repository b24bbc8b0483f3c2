"""docs/how-to/dead-letters.md names commands and options that there are, and all of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from flux.cli.dlq import COMMANDS
from flux.cli.dlq import command as dlq

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "dead-letters.md").read_text()
LINES = [shlex.split(line[2:], comments=True) for line in TEXT.splitlines() if line.startswith("$ flux dlq ")]


def command_of(name: str) -> click.Command:
    found = dlq.get_command(click.Context(dlq), name)
    assert found is not None, name
    return found


def options_of(name: str) -> set[str]:
    return {each for parameter in command_of(name).params for each in parameter.opts if each.startswith("--")}


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_the_commands_in_the_text_can_be_given(words: list[str]) -> None:
    until = next((at for at, word in enumerate(words) if word in ("|", ">")), len(words))
    name, *rest = words[2:until]
    context = command_of(name).make_context(name, rest)
    assert context.params["sources"] == ("billing.py",)


def test_every_command_and_every_choice_is_in_the_text() -> None:
    assert all(re.search(rf"flux dlq {name}\b", TEXT) for name in COMMANDS)
    missing = {option for name in COMMANDS for option in options_of(name) if option not in TEXT}
    assert missing <= {"--adapter", "--output", "--json"}, missing

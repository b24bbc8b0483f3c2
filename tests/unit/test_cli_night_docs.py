"""docs/how-to/status.md and docs/how-to/night.md name commands, options and pages that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from flux.cli.main import cli

DOCS = Path(__file__).parents[2] / "docs" / "how-to"
TEXTS = {name: (DOCS / f"{name}.md").read_text() for name in ("status", "night")}
LINES = sorted(
    {
        line.removeprefix("$ ")
        for text in TEXTS.values()
        for line in text.splitlines()
        if line.startswith("$ flux ") and "…" not in line
    }
)


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    found: click.Command = cli
    while isinstance(found, click.Group):
        following = found.get_command(click.Context(found), words[0])
        assert following is not None, words
        found, words = following, words[1:]
    return found, words


@pytest.mark.parametrize("line", LINES)
def test_the_commands_in_the_text_can_be_given(line: str) -> None:
    command, words = command_of(shlex.split(line, comments=True)[1:])
    assert command.make_context(line, words).params["sources"] == ("billing.py",)


def test_every_option_of_the_commands_is_in_the_text() -> None:
    for name in ("status", "trace", "skip"):
        command, _ = command_of([name])
        options = {option for each in command.params for option in each.opts if option.startswith("--")}
        missing = {option for option in options if option not in TEXTS["status"]}
        assert missing <= {"--adapter"}, (name, missing)


@pytest.mark.parametrize("name", TEXTS)
def test_its_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[name]):
        file, _, anchor = target.partition("#")
        text = (DOCS / (file or f"{name}.md")).read_text()
        headings = [re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()) for line in text.splitlines() if line[:1] == "#"]
        assert not anchor or anchor in [heading.replace(" ", "-") for heading in headings], target

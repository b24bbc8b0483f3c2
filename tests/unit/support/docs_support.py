"""The samples of a page of the documentation, in their order.

A comment beside them says more, and is not shown: `<!-- test` and code, which runs in its place among the others (what
a sample takes for granted, and what must hold after it), or `<!-- not run: REASON -->` before one that cannot.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import attrs
import click
from markdown_it import MarkdownIt

from flux.cli.load_code import find_tasks
from flux.cli.main import cli

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_HIDDEN = re.compile(r"<!-- test\n(.*?)-->\s*\Z", re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
_SIMPLE_COMMAND = re.compile(r"""(?:'[^']*'|"[^"]*"|[^'"|;&<>])+""")
_FILE = re.compile(r"# (\w+\.py)\n")


@attrs.frozen
class Sample:
    """`line`: where its code begins in the page. `kept`: why it is not run. `file`: whose part it is."""

    page: Path
    line: int
    language: str
    code: str
    kept: str | None = None
    shown: bool = True

    @property
    def file(self) -> str | None:
        named = _FILE.match(self.code)
        return named[1] if named else None

    @property
    def commands(self) -> Iterator[str]:
        for line in re.sub(r"\\\n\s*", "", self.code).splitlines():
            if line.startswith("$ "):
                yield line[2:]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def samples(page: Path) -> Iterator[Sample]:
    kept: str | None = None
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        line = token.map[0] + 2 if token.map else 0
        if token.type == "fence":
            yield Sample(page, line, token.info.strip().partition(" ")[0], token.content, kept)
        elif token.type == "html_block" and (hidden := _HIDDEN.match(token.content)):
            yield Sample(page, line, "python", hidden[1], shown=False)
        elif token.type == "html_block" and (told := _NOT_RUN.match(token.content)):
            kept = told[1]
            continue
        if token.nesting == 0:
            kept = None


def flux_commands(line: str) -> Iterator[list[str]]:
    """The words of each call of flux in a line of a shell."""
    for part in _SIMPLE_COMMAND.findall(line):
        words = shlex.split(part, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        if words[:1] == ["flux"]:
            yield words[1:]


def understand(words: list[str]) -> None:
    """Raises ClickException for what flux would refuse: commands, options, and tasks that are not in the code."""
    command: click.Command = cli
    parent: click.Context | None = None
    while isinstance(command, click.Group):
        parent = click.Context(command, parent)
        following = command.get_command(parent, words[0]) if words else None
        if following is None:
            raise click.UsageError(f"there is no command {' '.join(words)}")
        command, words = following, words[1:]
    if words == ["--help"]:
        return
    given = command.make_context(command.name, list(words), parent).params
    if given.get("sources"):
        named = given.get("tasks") or given.get("task") or ()
        find_tasks(given["sources"], [named] if isinstance(named, str) else list(named))

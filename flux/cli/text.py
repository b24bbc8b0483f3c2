"""What the command line prints: errors in one line, and nothing that a record could do to a terminal."""

from __future__ import annotations

import re

import click

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    """`text` with control characters written out, as \\x1b: they may come from a record. Line ends and tabs stay."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """The same in one line."""
    return escape(" ".join(text.split()))


def say(text: str, who: str = "flux") -> None:
    """An error: one line to stderr. Lines after the first are details."""
    first, *more = text.splitlines() or [""]
    click.echo(click.style(f"{who}: ", fg="red", bold=True) + escape(first), err=True)
    for line in more:
        click.echo(escape(line), err=True)

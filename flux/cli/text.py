"""What the command line prints: errors in one line, and nothing that a record could do to a terminal."""

from __future__ import annotations

import click

from flux.core.text import escape, one_line

__all__ = ["escape", "one_line", "say"]


def say(text: str, who: str = "flux") -> None:
    """An error: one line to stderr. Lines after the first are details."""
    first, *more = text.splitlines() or [""]
    click.echo(click.style(f"{who}: ", fg="red", bold=True) + escape(first), err=True)
    for line in more:
        click.echo(escape(line), err=True)

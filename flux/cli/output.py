"""What a command prints: errors of one line each, even where a stream is closed or full, and tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from flux.core.text import escape, one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_MODES = (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDWR))


def prepare() -> None:
    """Writes what an encoding lacks as an escape. Opens a closed stream on the wrong side of the null device: using it
    is an error, and no connection gets its file descriptor. Opens stderr for writing, as no error could be shown."""
    for number, (name, mode, flags) in enumerate(_MODES):
        stream = getattr(sys, name)
        if stream is None:
            with suppress(OSError):
                _reopen(number, flags)
                setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace" if mode == "w" else "replace")


def failed(error: OSError) -> None:
    """Prints once that reading or writing failed, such as on a full disk."""
    discard()
    if not isinstance(error, BrokenPipeError):  # the reader has closed the pipe
        try_print_error(
            str(error) if error.filename is not None else f"reading or writing failed: {error.strerror or error}"
        )


def try_print_error(text: str, who: str = "flux") -> None:
    """`print_error`, unless stderr fails."""
    with suppress(OSError, ValueError):
        print_error(text, who)


def flush() -> None:
    """Raises OSError, which at the interpreter's exit would be a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def discard() -> None:
    """Drops output that could not be written, else Python would try again at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                _reopen(stream.fileno(), os.O_WRONLY)


def _reopen(number: int, flags: int) -> None:
    null = os.open(os.devnull, flags)
    if null != number:
        os.dup2(null, number)
        os.close(null)


def print_error(text: str, who: str = "flux") -> None:
    """Writes an error to stderr: one line, and details in further lines."""
    first, *more = text.splitlines() or [""]
    click.echo(click.style(f"{who}: ", fg="red", bold=True) + escape(first), err=True)
    for line in more:
        click.echo(escape(line), err=True)


_WIDE = 1000  # columns: a pipe has no width, and names must not be cut


def console() -> Console:
    from rich.console import Console

    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_WIDE)


def table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """`numbers`: the columns that are aligned right."""
    from rich import box
    from rich.table import Table

    right = set(numbers)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def cell(value: object, style: str = "") -> Text:
    """A value as plain text: markup in it has no effect."""
    from rich.text import Text

    text = f"{value:,}" if isinstance(value, int) else one_line(str(value))
    return Text(text, style=style)

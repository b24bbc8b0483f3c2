"""The standard streams of a command, and its errors: one line each, even where a stream is closed or full."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from flux.core.text import escape

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

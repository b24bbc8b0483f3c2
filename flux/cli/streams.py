"""The standard streams of a command: whatever they are, or are not, it ends with a line and an exit code."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from flux.core.text import escape

_MODES = (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDWR))


def prepare() -> None:
    """What an encoding lacks is written as an escape. What is closed is opened on the wrong side of the null device: to
    use it is an error, and nothing else, such as a connection, gets its number. stderr is opened for writing, as there
    is nowhere to say that it is closed."""
    for number, (name, mode, flags) in enumerate(_MODES):
        stream = getattr(sys, name)
        if stream is None:
            with suppress(OSError):
                _reopen(number, flags)
                setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace" if mode == "w" else "replace")


def failed(error: OSError) -> None:
    """Reading or writing failed, such as on a full disk: says so, once."""
    discard()
    if not isinstance(error, BrokenPipeError):  # whoever read the output has seen enough
        print_error_if_possible(
            str(error) if error.filename is not None else f"reading or writing failed: {error.strerror or error}"
        )


def print_error_if_possible(text: str, who: str = "flux") -> None:
    """`print_error`, as far as stderr takes it."""
    with suppress(OSError, ValueError):
        print_error(text, who)


def flush() -> None:
    """Raises OSError. What is left for the interpreter's end fails there with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def discard() -> None:
    """Python must not find what could not be written again when it flushes at exit."""
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
    """An error: one line to stderr. Lines after the first are details."""
    first, *more = text.splitlines() or [""]
    click.echo(click.style(f"{who}: ", fg="red", bold=True) + escape(first), err=True)
    for line in more:
        click.echo(escape(line), err=True)

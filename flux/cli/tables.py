"""Tables for a terminal and for a pipe."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flux.core.text import one_line

_WIDE = 1000  # columns: a pipe has no width, and names must not be cut


def console() -> Console:
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_WIDE)


def table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """`numbers`: the columns that are aligned right."""
    right = set(numbers)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def cell(value: object, style: str = "") -> Text:
    """A value as plain text: markup in it has no effect."""
    text = f"{value:,}" if isinstance(value, int) else one_line(str(value))
    return Text(text, style=style)

"""`python -m proof.versions.page`: writes the table of the last results into docs/stability.md."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from proof.versions.pieces import Found, kept, outcome
from proof.versions.stage import PIECES

PAGE = Path(__file__).parents[3] / "docs" / "stability.md"
BEGIN, END = "<!-- versions: made by python -m proof.versions.page -->\n", "<!-- /versions -->\n"


def main() -> int:
    PAGE.write_text(filled(PAGE.read_text(), kept()))
    return 0


def filled(page: str, found: Mapping[str, Found]) -> str:
    """`page` with the table between its marks. Raises ValueError without them, or without results."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark or not found:
        raise ValueError("the page has no marks for the table of versions, or there are no results")
    results = outcome(found, list(PIECES))
    [table] = results.tables
    days = sorted({each.date for each in found.values()})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    lines = [_row(table.columns), _row(["---"] * len(table.columns)), *map(_row, table.rows)]
    notes = "".join(f"- {note}\n" for note in [*(f"Failed: {each}" for each in results.problems), *results.notes])
    return f"{before}{BEGIN}\nRun: {when}.\n\n{''.join(lines)}\n{notes}\n{END}{after}"


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


if __name__ == "__main__":
    sys.exit(main())

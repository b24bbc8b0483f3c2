"""`python -m proof.versions.page`: writes the table of the last run into docs/stability.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "stability.md"
BEGIN, END = "<!-- versions: made by python -m proof.versions.page -->\n", "<!-- /versions -->\n"


def main() -> int:
    report = json.loads((ROOT / "build" / "proof" / "report.json").read_text())["versions"]
    PAGE.write_text(filled(PAGE.read_text(), report))
    return 0


def filled(page: str, report: Mapping[str, Any]) -> str:
    """`page` with the table of `report` between its marks. Raises ValueError without them."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError("the page has no marks for the table of versions")
    [table] = report["tables"]
    lines = [_row(table["columns"]), _row(["---"] * len(table["columns"])), *map(_row, table["rows"])]
    notes = "".join(f"- {note}\n" for note in report["notes"])
    return f"{before}{BEGIN}\nRun: {report['about']}.\n\n{''.join(lines)}\n{notes}\n{END}{after}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    sys.exit(main())

"""What the pieces of the stage found. Each can be played alone: the last results of all are kept in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from proof.stage import Outcome, Table
from proof.versions.results import COLUMNS, NOT_RUN, cells

RESULTS = Path(__file__).parents[3] / "build" / "proof" / "versions.json"
TITLE = "Versions"
NOTES = (
    "Kafka 3.9 offers KIP-848 as a preview only, which is switched off: groups there use the classic protocol.",
    "Redpanda was not tried: it comes as a container image and from a package registry of its own, and the machine of"
    " this run reaches neither.",
)


@attrs.define
class Found:
    """Of one piece."""

    date: str = attrs.field(factory=lambda: time.strftime("%Y-%m-%d"))
    rows: list[list[str]] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    tests: int = 0

    def add(self, kafka: str, python: str, dependencies: str, reports: Sequence[Path], log: Path) -> None:
        found = cells(reports)
        empty = [report for report in reports if not any(cell.ran for cell in cells([report]).values())]
        self.rows.append([kafka, python, dependencies, *map(str, found.values())])
        where = f"Kafka {kafka}, Python {python}, {dependencies}"
        if empty:
            self.problems.append(f"{where}: no test ran for {', '.join(map(str, empty))}; see {log}")
        for title, cell in found.items():
            self.tests += cell.ran
            if cell.failed:
                self.problems.append(f"{where}, {title}: {', '.join(cell.failed[:5])}; see {log}")


def kept(path: Path = RESULTS) -> dict[str, Found]:
    if not path.exists():
        return {}
    return {name: Found(**found) for name, found in json.loads(path.read_text()).items()}


def keep(name: str, found: Found, path: Path = RESULTS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    every = {**kept(path), name: found}
    path.write_text(json.dumps({each: attrs.asdict(what) for each, what in every.items()}, indent=1))


def outcome(found: Mapping[str, Found], wanted: Sequence[str]) -> Outcome:
    """`wanted`: the names of all pieces, in the order of the table."""
    pieces = [found[name] for name in wanted if name in found]
    rows = [row for piece in pieces for row in piece.rows]
    missing = [name for name in wanted if name not in found]
    notes = [*NOTES, *(note for piece in pieces for note in piece.notes)]
    return Outcome(
        [problem for piece in pieces for problem in piece.problems],
        {
            "combinations": sum(cell != NOT_RUN for row in rows for cell in row[3:]),
            "tests": sum(piece.tests for piece in pieces),
        },
        [Table(TITLE, ("Kafka", "Python", "dependencies", *COLUMNS), rows)],
        [*notes, *([f"Not run: {', '.join(missing)}."] if missing else [])],
    )

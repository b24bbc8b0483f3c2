"""`make chaos`: every scenario, one after the other, and a table of what became of the records.

Arguments name scenarios; without any, all are played.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from brokers.base import NoBroker
from rich.console import Console
from rich.table import Table

from chaos.cluster import Cluster, running
from chaos.repertoire import REPERTOIRE, Failures, Scenario, played


def main() -> int:
    wanted = sys.argv[1:]
    unknown = set(wanted) - {scenario.name for scenario in REPERTOIRE}
    if unknown:
        print(f"no such scenario: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    table = Table("scenario", "faults", *("records", "calls", "lost", "repeated", "allowed", "doubled", "dead", "s"))
    for column in table.columns[2:]:
        column.justify = "right"
    failures: list[str] = []
    directory = Path(tempfile.mkdtemp(prefix="flux-chaos-logs-"))
    try:
        with running() as cluster:
            for scenario in [each for each in REPERTOIRE if not wanted or each.name in wanted]:
                failures += _play(scenario, cluster, directory, table)
    except NoBroker as reason:
        print(f"no Kafka for chaos: {reason}", file=sys.stderr)
        return 1
    Console(width=150).print(table)
    print("\n".join(failures) or "nothing was lost, and nothing repeated without an excuse")
    print(f"logs, books and histories: {directory}")
    return 1 if failures else 0


def _play(scenario: Scenario | Failures, cluster: Cluster, directory: Path, table: Table) -> list[str]:
    began = time.monotonic()
    figures, faults = played(scenario, cluster, directory)
    shown = ", ".join(f"{count} {kind}" for kind, count in faults.items())
    numbers = [figures.records, figures.calls, figures.lost, figures.repeated, figures.allowed, figures.doubled]
    cells = ["-" if number is None else str(number) for number in [*numbers, figures.dead]]
    table.add_row(scenario.name, shown, *cells, f"{time.monotonic() - began:.0f}")
    print(f"{scenario.name}: {'; '.join(figures.problems) or 'well'}", file=sys.stderr, flush=True)
    return [f"{scenario.name}: {problem}" for problem in figures.problems]


if __name__ == "__main__":
    sys.exit(main())

"""The stage `history`: scenarios of `chaos` on a cluster of three brokers, and their histories checked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from chaos.cluster import running
from chaos.repertoire import REPERTOIRE, Scenario, played
from chaos.trial import HISTORY_FILE

from proof.history.checker import KINDS, counts
from proof.history.events import read
from proof.stage import Cell, Outcome, Stage, Table


def _run(scale: float, directory: Path) -> Outcome:
    scenarios = [each for each in REPERTOIRE if isinstance(each, Scenario)]
    wanted = max(1, round(len(scenarios) * min(scale, 1.0)))
    problems: list[str] = []
    rows: list[list[Cell]] = []
    events: Counter[str] = Counter()
    findings: Counter[str] = Counter()
    with running() as cluster:
        for scenario in (scenarios[number * len(scenarios) // wanted] for number in range(wanted)):
            figures, faults = played(scenario, cluster, directory)
            problems += [f"{scenario.name}: {problem}" for problem in figures.problems]
            path = directory / scenario.name / HISTORY_FILE
            held = counts(read(path)) if path.exists() else Counter[str]()
            events += held
            findings += figures.findings
            shown = ", ".join(f"{count} {kind}" for kind, count in faults.items())
            rows.append(
                [scenario.name, shown, held["produced"], held["began"], held["committed"], len(figures.problems)]
            )
    return Outcome(
        problems,
        {
            "scenarios": len(rows),
            "records": events["produced"],
            "calls": events["began"],
            "commits": events["committed"],
            "findings": sum(findings.values()),
        },
        [
            Table("Scenarios", ("scenario", "faults", "records", "calls", "commits", "problems"), rows),
            Table("Findings, also those that a fault excuses", ("kind", "times"), [[k, findings[k]] for k in KINDS]),
        ],
    )


HISTORY = Stage(
    "history",
    "Histories of faults on a real cluster, checked by rules that know nothing of flux: lost, skipped, called before "
    "due, order by key, commits, copies.",
    _run,
)

"""The stage `versions`. Each version of Kafka with what flux is developed with; and with the newest Kafka, each other
Python and the oldest and newest dependencies."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from brokers.jars import jars

from proof.stage import Outcome, Stage, Table
from proof.versions.environments import Environment, Missing, clients_of, newest, oldest, other_pythons, own
from proof.versions.results import COLUMNS, NOT_RUN, cells

KAFKAS = ("3.9.2", "4.0.2", "4.3.0", "4.4.0")
OLD, NEW = KAFKAS[0], KAFKAS[-1]
CONTRACT = ("tests/integration/test_contract_confluent.py", "tests/integration/test_contract_aiokafka.py")
JOB = ("tests/integration/job/test_main_job.py", "tests/integration/job/test_positions.py")
CHAOS = "tests/chaos/test_chaos.py::test_a_broker_that_dies_and_comes_back_costs_nothing"
UNIT = "tests/unit/adapters"
TITLE = "Versions"
_PREVIEW = ("-k", "not new_protocol and not KIP-848")
"""Kafka 3.9 has the new protocol of consumer groups as a preview only, which is switched off."""
NOTES = (
    "Kafka 3.9 offers KIP-848 as a preview only, which is switched off: groups there use the classic protocol.",
    "Redpanda was not tried: it needs a container engine, which the machine of this run does not have.",
)


@attrs.define
class _Found:
    rows: list[list[str]] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    tests: int = 0

    def add(self, kafka: str, python: str, dependencies: str, reports: Sequence[Path], log: Path) -> None:
        found = cells(reports)
        self.rows.append([kafka, python, dependencies, *map(str, found.values())])
        where = f"Kafka {kafka}, Python {python}, {dependencies}"
        if not any(cell.passed or cell.failed for cell in found.values()):
            self.problems.append(f"{where}: no test ran; see {log}")
        for title, cell in found.items():
            self.tests += cell.passed + len(cell.failed)
            if cell.failed:
                self.problems.append(f"{where}, {title}: {', '.join(cell.failed[:5])}; see {log}")


def _run(scale: float, directory: Path) -> Outcome:
    found, began = _Found(), time.monotonic()
    if scale < 1:
        with jars(OLD) as node:
            _play(found, own(), OLD, node.bootstrap, [*CONTRACT, *_PREVIEW], directory)
        return _outcome(found, began)
    for kafka in KAFKAS:
        tests = [*CONTRACT, *JOB, *(_PREVIEW if kafka == OLD else ())]
        with jars(kafka) as node:
            others = []
            if kafka == NEW:
                others = [oldest(), newest(), other_pythons("3.13", "3.14")]
            _play(found, own(), kafka, node.bootstrap, tests, directory, chaos=True)
            for environment in others:
                unit = [UNIT] if environment.name in ("oldest", "newest") else []
                _play(found, environment, kafka, node.bootstrap, [*tests, *unit], directory)
    return _outcome(found, began)


def _play(
    found: _Found,
    environment: Environment,
    kafka: str,
    bootstrap: str,
    tests: Sequence[str],
    directory: Path,
    chaos: bool = False,
) -> None:
    own = directory / f"{kafka}-{len(found.rows)}"
    own.mkdir()
    log = own / "log"
    variables: Mapping[str, str] = {"FLUX_TEST_BOOTSTRAP": bootstrap}
    try:
        reports = environment.run(tests, own, variables, log)
        more: list[Path] = []
        if chaos:
            again = own / "chaos"
            again.mkdir()
            more += environment.run([CHAOS], again, {"FLUX_TEST_KAFKA_VERSION": kafka}, log).values()
    except Missing as reason:
        found.notes.append(f"Not tried: Kafka {kafka}, {environment.name}: {reason}")
        return
    made = environment.name in ("oldest", "newest")
    dependencies = f"{environment.name}: {clients_of(environment.name)}" if made else environment.name
    for python, report in reports.items():
        found.add(kafka, python, dependencies, [report, *more], log)


def _outcome(found: _Found, began: float) -> Outcome:
    table = Table(TITLE, ("Kafka", "Python", "dependencies", *COLUMNS), found.rows)
    combinations = sum(cell != NOT_RUN for row in found.rows for cell in row[3:])
    figures = {"combinations": combinations, "tests": found.tests}
    return Outcome(found.problems, figures, [table], [*NOTES, *found.notes], time.monotonic() - began)


VERSIONS = Stage(
    "versions",
    "The contract of both adapters and the main job against several versions of Kafka, Python and the clients.",
    _run,
)

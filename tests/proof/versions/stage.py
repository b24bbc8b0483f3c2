"""The stage `versions`. Each version of Kafka with what flux is developed with; with the newest Kafka, each other
Python and the oldest and newest dependencies; and Debians that have nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from brokers.jars import VERSION, jars

from proof.stage import Outcome, Stage
from proof.versions.environments import (
    OTHER_PYTHONS,
    Environment,
    Missing,
    bare,
    clients_of,
    newest,
    oldest,
    other_python,
    own,
)
from proof.versions.pieces import Found, keep, outcome

KAFKAS = ("3.9.2", "4.0.2", "4.3.0", "4.4.0")
OLD, NEW = KAFKAS[0], KAFKAS[-1]
CONTRACT = ("tests/integration/test_contract_confluent.py", "tests/integration/test_contract_aiokafka.py")
JOB = ("tests/integration/job/test_main_job.py", "tests/integration/job/test_positions.py")
CHAOS = "tests/chaos/test_chaos.py::test_a_broker_that_dies_and_comes_back_costs_nothing"
UNIT = "tests/unit/adapters"
_PREVIEW = ("-k", "not new_protocol and not KIP-848")
"""Kafka 3.9 has the new protocol of consumer groups as a preview only, which is switched off."""

Play = Callable[[Found, Path], None]
"""Plays one piece: fills what it found, with logs in the directory."""


def _few(found: Found, directory: Path) -> None:
    with jars(OLD) as node:
        _play(found, own(), OLD, node.bootstrap, [CONTRACT[0], *_PREVIEW], directory)


def _kafka(version: str, found: Found, directory: Path) -> None:
    tests = [*CONTRACT, *JOB, *(_PREVIEW if version == OLD else ())]
    with jars(version) as node:
        _play(found, own(), version, node.bootstrap, tests, directory, chaos=True)


def _environment(make: Callable[[], Environment], more: Sequence[str], found: Found, directory: Path) -> None:
    with jars(NEW) as node:
        _play(found, make(), NEW, node.bootstrap, [*CONTRACT, *JOB, *more], directory)


def _bare(suite: str, found: Found, directory: Path) -> None:
    _play(found, bare(suite, found.notes), VERSION, "", (), directory)


PIECES: Mapping[str, Play] = {
    **{f"kafka-{version}": partial(_kafka, version) for version in KAFKAS},
    "oldest": partial(_environment, oldest, [UNIT]),
    "newest": partial(_environment, newest, [UNIT]),
    **{f"python-{version}": partial(_environment, partial(other_python, version), []) for version in OTHER_PYTHONS},
    "bare-stable": partial(_bare, "stable"),
    "bare-unstable": partial(_bare, "unstable"),
}


def played(name: str, directory: Path) -> Found:
    """Its result is kept."""
    found, logs = Found(), directory / name
    logs.mkdir()
    PIECES[name](found, logs)
    keep(name, found)
    return found


def _run(scale: float, directory: Path) -> Outcome:
    if scale < 1:
        found = Found()
        _few(found, directory)
        return outcome({"few": found}, ["few"])
    return outcome({name: played(name, directory) for name in PIECES}, list(PIECES))


def _play(
    found: Found,
    environment: Environment,
    kafka: str,
    bootstrap: str,
    tests: Sequence[str],
    directory: Path,
    chaos: bool = False,
) -> None:
    log = directory / "log"
    try:
        reports = environment.run(tests, directory, {"FLUX_TEST_BOOTSTRAP": bootstrap}, log)
        more: list[Path] = []
        if chaos:
            again = directory / "chaos"
            again.mkdir()
            more += environment.run([CHAOS], again, {"FLUX_TEST_KAFKA_VERSION": kafka}, log).values()
    except Missing as reason:
        found.notes.append(f"Not tried: Kafka {kafka}, {environment.name}: {reason}")
        return
    made = environment.name in ("oldest", "newest")
    dependencies = f"{environment.name}: {clients_of(environment.name)}" if made else environment.name
    for python, report in reports.items():
        found.add(kafka, python, dependencies, [report, *more], log)


VERSIONS = Stage(
    "versions",
    "The contract of both adapters and the main job against several versions of Kafka, Python and the clients, and on"
    " Debians that have nothing yet.",
    _run,
)

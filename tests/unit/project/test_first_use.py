"""What the first use of a machine makes is made once, whoever comes first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

FETCHING = """
import sys
from pathlib import Path
from brokers.jars import libraries
Path(sys.argv[1], f"asks-{sys.argv[2]}").touch()
print(libraries())
"""
MAVEN = """#!/bin/sh
echo fetched >> "$HERE/fetches"
tries=0
while [ "$(ls "$HERE" | grep -c '^asks-')" -lt 2 ] && [ $tries -lt 500 ]; do sleep 0.02; tries=$((tries + 1)); done
sleep 0.3
if [ -e "$HERE/fails" ]; then cat "$HERE/fails"; rm "$HERE/fails"; exit 1; fi
mkdir libs
echo jar > libs/kafka.jar
"""
FAILURE = """[INFO] Scanning for projects...
[WARNING] Could not transfer it: no network
[ERROR] No plugin found for prefix 'dependency'
[ERROR]
[ERROR] Re-run Maven using the -X switch to enable full debug logging.
"""


class Machine:
    """Empty, but for a Maven that waits until two processes have asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = directory / "cache" / "super-flux" / "kafka"
        maven = directory / "bin" / "mvn"
        maven.parent.mkdir()
        maven.write_text(MAVEN)
        maven.chmod(0o755)

    def fetch(self, *names: str) -> list[tuple[int, str, str]]:
        """Exit code, output and errors of processes that do so at the same time."""
        environment = {
            **os.environ,
            "HERE": str(self.directory),
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
        }
        started = [
            subprocess.Popen(
                [sys.executable, "-c", FETCHING, str(self.directory), name],
                cwd=ROOT / "tests",
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in names
        ]
        ended = [process.communicate(timeout=60) for process in started]
        return [(process.returncode, out.strip(), err) for process, (out, err) in zip(started, ended, strict=True)]

    @property
    def fetches(self) -> int:
        return len((self.directory / "fetches").read_text().splitlines())

    @property
    def kept(self) -> list[str]:
        [version] = self.cache.iterdir()
        return sorted(path.name for path in version.iterdir())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_two_processes_that_need_jars_at_once_fetch_them_once(machine: Machine) -> None:
    first, second = machine.fetch("one", "other")
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert first[1] == second[1]
    assert [path.name for path in Path(first[1]).iterdir()] == ["kafka.jar"]
    assert machine.fetches == 1
    assert machine.kept == ["libs", "lock"]


def test_when_the_first_cannot_fetch_them_the_second_does(machine: Machine) -> None:
    (machine.directory / "fails").write_text(FAILURE)
    ended = sorted(machine.fetch("one", "other"))
    assert [code for code, _, _ in ended] == [0, 1]
    assert "NoBroker: Maven did not get Kafka's jars: [WARNING] Could not transfer it: no network\n" in ended[1][2]
    assert machine.kept == ["libs", "lock"]


def test_what_a_killed_process_has_half_fetched_does_no_harm(machine: Machine) -> None:
    (machine.directory / "asks-nobody").touch()
    [(_, folder, _)] = machine.fetch("one")  # to learn where
    half = Path(folder).with_name("half")
    (half / "libs").mkdir(parents=True)
    (half / "libs" / "broken.jar").touch()
    (Path(folder) / "kafka.jar").unlink()
    Path(folder).rmdir()
    [(code, _, errors)] = machine.fetch("other")
    assert code == 0, errors
    assert machine.kept == ["libs", "lock"]
    assert [path.name for path in Path(folder).iterdir()] == ["kafka.jar"]


PYTHON = """#!/bin/sh
case "$1" in *once.py) exec {real} "$@" ;; esac
mkdir "$HERE/busy" || { echo "two at once: $*" >&2; exit 1; }
sleep 0.1
echo "$*" >> "$HERE/done"
if [ "$2" = venv ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; sleep 0.1; touch .venv/bin/activate; fi
rmdir "$HERE/busy"
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_two_makes_at_once_make_one_environment_and_fill_it_one_after_the_other(tmp_path: Path) -> None:
    project, python = tmp_path / "project", tmp_path / "python"
    (project / ".ci").mkdir(parents=True)
    for name in ("Makefile", ".ci/once.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, project / name)
    python.write_text(PYTHON.replace("{real}", sys.executable))
    python.chmod(0o755)
    command = ["make", "-j4", f"PYTHON={python}", ".venv/.installed", ".venv/.developed", ".venv/.documented"]
    makes = [
        subprocess.Popen(command, cwd=project, env={**os.environ, "HERE": str(tmp_path)}, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    errors = [make.communicate(timeout=60)[1] for make in makes]
    assert [make.returncode for make in makes] == [0, 0], errors
    done = (tmp_path / "done").read_text().splitlines()
    assert done[0] == "-m venv .venv"
    assert not any("venv .venv" in line for line in done[1:])
    assert any(line.endswith("--editable .[docs]") for line in done)

"""Where the unit tests run on other Pythons: which those are, and what is said where that cannot be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / ".ci" / "pythons"
NEEDED = ("bash", "flock", "git", "mktemp", "timeout")


def test_each_python_that_is_a_classifier_is_one_of_the_matrix() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = [each.rpartition(" ")[2] for each in project["classifiers"] if re.search(r":: 3\.\d+$", each)]
    [listed] = re.findall(r"^PYTHONS = \[(.*)\]$", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    assert re.findall(r"3\.\d+", listed) == told


def test_ci_runs_the_unit_tests_on_the_oldest_and_the_newest_ones() -> None:
    asked = "\n".join(
        line
        for path in (".ci/run", "Makefile")
        for line in (ROOT / path).read_text().splitlines()
        if ".ci/pythons" in line
    )
    assert {"3.11", "3.13", "3.14"} <= set(re.findall(r"\b3\.\d+\b", asked))
    assert "make pythons" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.skipif(any(shutil.which(each) is None for each in NEEDED), reason="the script's tools are not all here")
@pytest.mark.parametrize(
    ("user", "mirror", "says"),
    [
        (1000, "http://mirror.invalid/debian", "only root can"),
        (0, "", "apt knows no mirror of Debian"),
        (0, "http://mirror.invalid/debian", "debootstrap failed"),
    ],
)
def test_a_machine_that_cannot_have_another_python_is_told_why_in_one_line(
    tmp_path: Path, user: int, mirror: str, says: str
) -> None:
    fakes = tmp_path / "bin"
    fakes.mkdir()
    for name, script in {
        "id": f"echo {user}",
        "apt-get": f'[ "$1" != indextargets ] || echo "{mirror}"',
        "debootstrap": "echo 'E: the network is away'; exit 1",
        "unshare": "exit 1",
    }.items():
        (fakes / name).write_text(f"#!/bin/sh\n{script}\n")
        (fakes / name).chmod(0o755)
    told = subprocess.run(
        ["bash", SCRIPT, "unstable", "3.13", "3.14"],
        env={**os.environ, "PATH": f"{fakes}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 3
    last = told.stderr.strip().splitlines()[-1]
    assert last.startswith(".ci/pythons: no Debian unstable with Python 3.13 3.14 could be made: ")
    assert says in last
    if "failed" in says:
        assert "the network is away" in told.stderr

"""Pythons with flux's dependencies: that of this process, and those that are made for the purpose."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[3]
_MADE = ROOT / ".venv-proof"
_LIMIT = 1800.0  # seconds a run may take
_INSTALL = 600.0
_NO_CHROOT = 3  # exit code
OTHER_PYTHONS = ("3.13", "3.14")
_OURS = "aiokafka,models,opentelemetry,prometheus,reload,web"
_TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "pytest-rerunfailures", "hypothesis")


class Missing(Exception):
    """What cannot be had on this machine."""


@attrs.frozen
class Environment:
    """`run(tests, reports, variables, log)`: runs pytest and returns its JUnit files by Python version. Raises
    Missing."""

    name: str
    run: Callable[[Sequence[str], Path, Mapping[str, str], Path], Mapping[str, Path]]


def own() -> Environment:
    clients = f"confluent-kafka {version('confluent-kafka')}, aiokafka {version('aiokafka')}"
    return Environment(f"as developed: {clients}", _runs(lambda log: sys.executable))


def oldest() -> Environment:
    """The lower bounds of pyproject.toml."""
    return Environment("oldest", _runs(lambda log: _made("oldest", _OURS, ["--resolution", "lowest-direct"], log)))


def newest() -> Environment:
    return Environment("newest", _runs(lambda log: _made("newest", "test", [], log)))


def other_python(wanted: str) -> Environment:
    """One of Debian unstable, in the chroot of `make pythons`."""

    def run(tests: Sequence[str], reports: Path, variables: Mapping[str, str], log: Path) -> Mapping[str, Path]:
        given = {**variables, "ONLY": wanted, "TESTS": " ".join(tests), "REPORTS": str(reports), "DIST": "load"}
        return _in_chroot(["pythons", "unstable", *OTHER_PYTHONS], given, reports, log)

    return Environment(own().name, run)


def bare(suite: str, said: list[str]) -> Environment:
    """A Debian that has nothing yet. It starts a Kafka of its own and chooses the tests; what it says is added to
    `said`."""

    def run(tests: Sequence[str], reports: Path, variables: Mapping[str, str], log: Path) -> Mapping[str, Path]:
        found = _in_chroot(["bare", suite], {"REPORTS": str(reports)}, reports, log)
        said.append("; ".join(log.read_text(errors="replace").strip().splitlines()))
        return found

    return Environment(f"bare Debian {suite}", run)


def _in_chroot(command: Sequence[str], variables: Mapping[str, str], reports: Path, log: Path) -> Mapping[str, Path]:
    """Runs a script of `.ci`. Returns the reports that it left, by the versions of Python that are their names."""
    code = _ran([str(ROOT / ".ci" / command[0]), *command[1:]], variables, log, _LIMIT)
    if code == _NO_CHROOT:
        raise Missing(log.read_text(errors="replace").strip().rpartition("\n")[2])
    return {path.stem: path for path in sorted(reports.glob("*.xml"))} or {"unknown": reports / "none.xml"}


def _runs(
    python: Callable[[Path], str],
) -> Callable[[Sequence[str], Path, Mapping[str, str], Path], Mapping[str, Path]]:
    def run(tests: Sequence[str], reports: Path, variables: Mapping[str, str], log: Path) -> Mapping[str, Path]:
        path = reports / "own.xml"
        options = ["-q", "-p", "no:cacheprovider", "-n", "6", f"--junitxml={path}"]
        _ran([python(log), "-m", "pytest", *options, *tests], variables, log, _LIMIT)
        return {platform.python_version(): path}

    return run


def _made(name: str, extras: str, options: Sequence[str], log: Path) -> str:
    """The Python of a virtual environment, made the first time."""
    folder = _MADE / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        install = [str(folder / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(python)]
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "uv"],
            [*install, *options, "--editable", f"{ROOT}[{extras}]"],
            [*install, *_TOOLS],
        ):
            if _ran(command, {}, log, _INSTALL):
                raise Missing(f"{name} dependencies cannot be installed: {log.read_text(errors='replace')[-300:]}")
        (folder / "complete").touch()
    return str(python)


def clients_of(name: str) -> str:
    """The versions of the clients in an environment that was made."""
    listed = subprocess.run(
        [_MADE / name / "bin" / "uv", "pip", "list", "--python", _MADE / name / "bin" / "python"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = dict(line.split()[:2] for line in listed.stdout.splitlines() if len(line.split()) >= 2)
    return ", ".join(f"{client} {found.get(client, '?')}" for client in ("confluent-kafka", "aiokafka"))


def _ran(command: Sequence[str], variables: Mapping[str, str], log: Path, seconds: float) -> int:
    environment = {**os.environ, **variables}
    environment.pop("CI", None)  # a test that misses a program of this machine skips
    with log.open("ab") as file:
        try:
            return subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False, timeout=seconds
            ).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            file.write(f"{error!r}\n".encode())
            return 1

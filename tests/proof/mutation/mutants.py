"""Tries the mutants of one module of the core with that module's own tests, by mutmut in a copy of the tree."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).parents[3]
_LIMIT = 1800.0  # seconds a module, far above what one takes
_KILLED = ("killed", "segfault")
_COPIED = ("flux", "tests/unit/core", "tests/unit/support")
_FILES = ("_flux_pytest.py", "tests/conftest.py", "tests/unit/__init__.py")
_PAIRS: dict[str, Any] = runpy.run_path(str(ROOT / ".ci" / "core_coverage.py"))

_SETTINGS = """[tool.pytest.ini_options]
pythonpath = ["tests"]

[tool.mutmut]
source_paths = ["flux"]
only_mutate = ["{module}"]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = [
    "--hypothesis-profile=mutants", "--hypothesis-seed=0",
    "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:rerunfailures",
]
use_git_change_detection = false
process_isolation = "forkserver"  # a process that ran the tests before has their caches
timeout_multiplier = 5.0
timeout_constant = 1.0
"""


@attrs.frozen
class Mutant:
    """A change of one function. `was` and `now`: the lines that differ, without indentation."""

    module: str
    function: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.module}: {self.function}\n  - {self.was}\n  + {self.now}"


@attrs.frozen
class Result:
    """Of one module. `timeouts`: mutants whose tests did not end, as in a loop; `accepted`: survivors named with a
    reason in accepted.toml; `problem`: why there is no result."""

    module: str
    killed: int = 0
    timeouts: int = 0
    accepted: int = 0
    survivors: Sequence[Mutant] = ()
    stale: Sequence[Mutant] = ()
    problem: str = ""

    @property
    def mutants(self) -> int:
        return self.killed + self.timeouts + self.accepted + len(self.survivors)

    @property
    def share(self) -> float:
        """Killed, timed out or named with a reason, of all."""
        return 1 - len(self.survivors) / self.mutants if self.mutants else 1.0


def modules() -> list[str]:
    """All modules of the core that have tests of their own, the largest first."""
    every = _PAIRS["modules"]()
    tested = [path for path in every if _PAIRS["tests_of"](path, every)]
    return [str(path.relative_to(ROOT)) for path in sorted(tested, key=lambda path: -path.stat().st_size)]


def accepted() -> dict[Mutant, str]:
    """Survivors and the reason why each may survive."""
    return {
        Mutant(*(entry[name] for name in ("module", "function", "was", "now"))): entry["reason"]
        for entry in _read().get("mutant", [])
    }


def everywhere() -> list[tuple[str, str, str]]:
    """What the changed line ends with before and after, and the reason why that may survive in any module."""
    return [(entry["was"], entry["now"], entry["reason"]) for entry in _read()["everywhere"]]


def _read() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("accepted.toml").read_text())


def tried(module: str, directory: Path) -> Result:
    """Tries all mutants of `module` in a copy of the tree below `directory`."""
    tree = directory / module.replace("/", ".")
    own = [str(path.relative_to(ROOT)) for path in _PAIRS["tests_of"](ROOT / module, _PAIRS["modules"]())]
    _copy(tree, module, own)
    log = tree.with_suffix(".log")
    problem = _run(tree, log)
    if problem and _made_none(tree, module):
        shutil.rmtree(tree)
        return Result(module)
    if problem:
        return Result(module, problem=f"{module}: {problem}; see {log}")
    killed, timeouts, survivors = 0, 0, []
    for line in _mutmut(tree, "results", "--all", "true").splitlines():
        name, status = line.strip().rsplit(": ", 1)
        if status in _KILLED:
            killed += 1
        elif status == "timeout":
            timeouts += 1
        else:
            survivors.append(_mutant(module, name, _mutmut(tree, "show", name)))
    shutil.rmtree(tree)
    reasons = accepted()
    left = [mutant for mutant in survivors if mutant not in reasons and not _equivalent(mutant)]
    return Result(
        module,
        killed,
        timeouts,
        len(survivors) - len(left),
        left,
        [mutant for mutant in reasons if mutant.module == module and mutant not in survivors],
    )


def _equivalent(mutant: Mutant) -> bool:
    return any(
        mutant.was.endswith(was) and mutant.now == mutant.was.removesuffix(was) + now for was, now, _ in everywhere()
    )


def _copy(tree: Path, module: str, own: Sequence[str]) -> None:
    for name in _COPIED:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy(ROOT / name, tree / name)
    (tree / "pyproject.toml").write_text(_SETTINGS.format(module=module, tests=own))


def _run(tree: Path, log: Path) -> str:
    """Why it failed; empty if it did not."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "mutmut", "run", "--max-children", "1"],
            cwd=tree,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = child.wait(_LIMIT)
        except subprocess.TimeoutExpired:
            return f"not done within {_LIMIT:g} s"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    return f"mutmut ended with {code}" if code else ""


def _made_none(tree: Path, module: str) -> bool:
    """Whether there is nothing to change in `module`, which mutmut takes for an error."""
    made = tree / "mutants" / f"{module}.meta"
    return made.exists() and not json.loads(made.read_text())["exit_code_by_key"]


def _mutmut(tree: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True).stdout


def _mutant(module: str, name: str, diff: str) -> Mutant:
    # flux.core.x.xǁClassǁmethod__mutmut_3, flux.core.x.x_function__mutmut_3
    found = re.search(r"\.x(?:ǁ(.+)ǁ|_)(.+)__mutmut_\d+$", name)
    assert found, name
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    return Mutant(
        module,
        ".".join(filter(None, found.groups())),
        *(" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"),
    )

"""Fails unless each module of flux/core is wholly covered, branches included, by its own tests alone.

tests/unit/core mirrors flux/core: the tests of X.py are test_X.py, and test_X_*.py where one file would be too long.
Arguments: modules to look at, such as flux/core/stage.py; without any, all.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parents[1]
CORE, TESTS = ROOT / "flux/core", ROOT / "tests/unit/core"


def modules() -> list[Path]:
    return [path for path in sorted(CORE.rglob("*.py")) if path.name != "__init__.py"]


def tests_of(module: Path, all_modules: list[Path]) -> list[Path]:
    """A file named after a longer module name, as test_delay_queue_x.py is, belongs to that one alone."""
    folder = TESTS / module.relative_to(CORE).parent
    longer = [each.stem for each in all_modules if each.parent == module.parent and len(each.stem) > len(module.stem)]
    return [
        path
        for path in (folder / f"test_{module.stem}.py", *sorted(folder.glob(f"test_{module.stem}_*.py")))
        if path.exists() and not any(f"{path.stem}_".startswith(f"test_{name}_") for name in longer)
    ]


def uncovered(module: Path, tests: list[Path], data_file: str) -> str:
    """What its tests leave out, or how they failed; empty when they cover it wholly."""
    name = str(module.relative_to(ROOT))
    measure = [sys.executable, "-m", "coverage", "run", f"--data-file={data_file}", f"--include={name}"]
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *map(str, tests)]
    # a module that only declares names is covered by its import
    ran = subprocess.run([*measure, *(pytest if tests else [name])], cwd=ROOT, capture_output=True, text=True)
    if ran.returncode:
        return f"{name}: its tests failed\n{ran.stdout}{ran.stderr}"
    measured = coverage.Coverage(data_file=data_file, config_file=str(ROOT / "pyproject.toml"))
    measured.load()
    table = io.StringIO()
    if measured.report(morfs=[str(module)], show_missing=True, file=table) == 100:
        return ""
    missing = table.getvalue().splitlines()[2].split("%", 1)[1].strip()
    what = ", ".join(test.name for test in tests) or "it has no tests of its own, and its import"
    return f"{name}: {what} leaves out {missing}"


def main(names: list[str]) -> int:
    found = modules()
    chosen = [path for path in found if not names or str(path.relative_to(ROOT)) in names]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(uncovered, module, tests_of(module, found), str(Path(folder, f"data{number}")))
            for number, module in enumerate(chosen)
        ]
        complaints = [complaint for job in jobs if (complaint := job.result())]
    print("\n".join(complaints) or f"{len(chosen)} modules are wholly covered by their own tests")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

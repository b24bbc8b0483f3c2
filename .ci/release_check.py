"""Builds what a release uploads, and looks at it as who installs it does: `make release-check`.

The wheel is built from the source distribution, installed where nothing else is, and used: the demo runs, and a program
that checks its types finds them.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
CONSTRAINTS = ROOT / "constraints.txt"
CLASSIFIERS = {"Development Status :: 5 - Production/Stable", "Typing :: Typed"}


def main() -> None:
    say("the source distribution, and the wheel made from it")
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT, PIP_CONSTRAINT=str(CONSTRAINTS))
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    check_sdist(sdist)
    check_wheel(wheel)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        say("the wheel in an environment of its own")
        venv.create(place / "venv", with_pip=True)
        python = place / "venv" / "bin" / "python"
        install(python, str(wheel))
        run(python, "-m", "pip", "--disable-pip-version-check", "check")
        run(python, "-c", "import flux, flux.serde, flux.testing, flux.operate, flux.adapters.confluent", cwd=place)
        run(place / "venv" / "bin" / "flux", "--version", cwd=place)
        run(place / "venv" / "bin" / "flux", "demo", cwd=place)
        say("its types, as mypy and pyright find them")
        install(python, f"{wheel}[aiokafka,models]")
        shutil.copy(ROOT / "tests" / "typing" / "consumer.py", place)
        run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "consumer.py", cwd=place)
        (place / "pyrightconfig.json").write_text('{"include": ["consumer.py"], "typeCheckingMode": "strict"}')
        run(sys.executable, "-m", "pyright", "--pythonpath", python, cwd=place)
    say(f"fit for a release: {sdist.name}, {wheel.name}")


def check_sdist(sdist: Path) -> None:
    """Everything that the project keeps: who packages it can test and check it."""
    with tarfile.open(sdist) as archive:
        names = {each.name.partition("/")[2] for each in archive.getmembers() if each.isfile()}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    kept = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    missing = sorted(set(kept or ["LICENSE", "CHANGELOG.md", "tests/unit/project/test_release.py"]) - names)
    expect(not missing, f"{sdist.name} lacks {', '.join(missing[:5])}")


def check_wheel(wheel: Path) -> None:
    """The package, all of it, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        told = email.message_from_bytes(archive.read(metadata))
    info = metadata.removesuffix("METADATA")
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "flux").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in names if not name.startswith(info)}
    missing, more = package - held, held - package - {"_flux_pytest.py"}
    expect(not missing, f"{wheel.name} lacks {', '.join(sorted(missing)[:5])}")
    expect(not more, f"{wheel.name} has no use for {', '.join(sorted(more)[:5])}")
    expect({"flux/py.typed", "_flux_pytest.py", f"{info}licenses/LICENSE"} <= names, f"{wheel.name}: marker or licence")
    lacking = CLASSIFIERS - set(told.get_all("Classifier", []))
    expect(not lacking, f"{wheel.name} does not say {', '.join(sorted(lacking))}")


def install(python: Path, what: str) -> None:
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--constraint", CONSTRAINTS, what)


def run(*command: str | Path, cwd: Path | None = None, **more: str) -> None:
    ended = subprocess.run([str(each) for each in command], cwd=cwd, env=os.environ | more, check=False)
    expect(ended.returncode == 0, f"exit code {ended.returncode} of {' '.join(map(str, command))}")


def expect(true: object, otherwise: str) -> None:
    if not true:
        raise SystemExit(f"not fit for a release: {otherwise}")


def say(what: str) -> None:
    print(f"-- {what}", flush=True)


if __name__ == "__main__":
    main()

"""The unit tests on every Python that flux supports, as far as this machine has it on PATH: `make matrix`.

Arguments after `--` go to pytest. An interpreter that is missing is named and skipped: the last lines list what ran.
"""

from __future__ import annotations

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
FREE_THREADED = ["3.14t"]

nox.options.envdir = ".venv/matrix"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"


@nox.session(python=PYTHONS)
def unit(session: nox.Session) -> None:
    run(session, ".[test]")


@nox.session(python=FREE_THREADED)
def free_threaded(session: nox.Session) -> None:
    """Without the clients and codecs that have no wheels for it; their tests skip."""
    run(session, ".[models]", "hypothesis", "pytest", "pytest-timeout")


def run(session: nox.Session, *packages: str) -> None:
    # not --editable: on each Python, what is packaged must hold all that is needed
    session.install("--quiet", "--constraint", "constraints.txt", *packages)
    session.run("pytest", "tests/unit", *session.posargs)

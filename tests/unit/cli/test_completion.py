"""Completion as shells request it: https://click.palletsprojects.com/en/stable/shell-completion/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from unit.support.cli_support import Flux, flux_cli

__all__ = ["flux_cli"]

TASKS = """
    import sys
    import flux

    print("printed by the code")
    print("complained of by the code", file=sys.stderr)

    class Billing(flux.Task):
        topic, group_id = "orders", "billing"

    class Bulletins(Billing):
        topic = "bulletins"

    class Shipping(Billing):
        topic = "parcels"

    class Base(flux.Task):
        pass
"""
FLUX = [sys.executable, "-m", "flux.cli.main"]


def completed(flux_cli: Flux, *words: str) -> list[str]:
    """What is offered for the last word; files as `file`."""
    done = subprocess.run(
        FLUX,
        cwd=flux_cli.directory,
        env={
            **os.environ,
            "_FLUX_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["flux", *words]),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    offered = [line.split(",", 1) for line in done.stdout.splitlines() if line]
    return [value if kind == "plain" else kind for kind, value in offered]


def test_commands_and_options_are_completed(flux_cli: Flux) -> None:
    assert completed(flux_cli, "do") == ["doctor"]
    assert completed(flux_cli, "dlq", "rep") == ["replay"]
    assert completed(flux_cli, "process", "--rel") == ["--reload"]


DLQ = ["list", "show", "causes", "replay", "purge", "export", "import"]
WITH_TASKS = [
    "process",
    "topics",
    "doctor",
    "status",
    "trace",
    "skip",
    "cancel",
    "backoff",
    *(f"dlq {name}" for name in DLQ),
]


@pytest.mark.parametrize("command", WITH_TASKS)
def test_tasks_are_completed_from_what_is_loaded(flux_cli: Flux, command: str) -> None:
    flux_cli.file(TASKS, "shop.py")
    assert completed(flux_cli, *command.split(), "--load", "shop.py", "B") == ["Billing", "Bulletins"]


def test_a_module_is_loaded_too_and_an_adapter_is_passed_over(flux_cli: Flux) -> None:
    flux_cli.file(TASKS, "shop.py")
    words = ["--adapter", "nonsense", "--load", "shop", "Billing", "S"]
    assert completed(flux_cli, "process", *words) == ["Shipping"]


def test_files_are_left_to_the_shell(flux_cli: Flux) -> None:
    assert completed(flux_cli, "process", "--load", "sh") == ["file"]


@pytest.mark.parametrize("code", ["1 / 0", "raise SystemExit(3)", "def", "import missing"])
def test_code_that_fails_completes_to_nothing(flux_cli: Flux, code: str) -> None:
    flux_cli.file(code, "shop.py")
    assert completed(flux_cli, "process", "--load", "shop.py", "B") == []
    assert completed(flux_cli, "process", "--load", "missing.py", "B") == []


def test_a_command_that_there_is_not_is_no_error_yet(flux_cli: Flux) -> None:
    assert "process" in completed(flux_cli, "nonsense", "p")


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
def test_bash_completes_with_what_flux_gives_it_to_source(flux_cli: Flux) -> None:
    flux_cli.file(TASKS, "shop.py")
    (flux_cli.directory / "flux").write_text(f'#!/bin/sh\nexec {sys.executable} -m flux.cli.main "$@"\n')
    (flux_cli.directory / "flux").chmod(0o755)
    script = """
        set -e
        eval "$(_FLUX_COMPLETE=bash_source flux)"
        complete -p flux >&2
        COMP_WORDS=(flux process --load shop.py S) COMP_CWORD=4
        _flux_completion flux
        echo "${COMPREPLY[@]}"
    """
    path = f"{flux_cli.directory}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=flux_cli.directory,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "_flux_completion" in done.stderr
    assert done.stdout == "Shipping\n"

"""Runs the project's tests as Django does, in a separate process."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def manage(*args: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FLUX_ADAPTER"}
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=100)


def test_the_projects_own_tests_pass() -> None:
    ended = manage("manage.py", "test", "--verbosity", "2")
    assert ended.returncode == 0, ended.stderr
    assert "test_an_order_is_billed_and_mailed" in ended.stderr


def test_no_migration_is_missing() -> None:
    ended = manage("manage.py", "makemigrations", "--check", "--dry-run")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_command_line_finds_the_tasks() -> None:
    ended = manage("-m", "flux.cli.main", "process", "--load", "shop.tasks", "BillOrder", "SendMail")
    assert ended.returncode == 1
    assert "no adapter" in ended.stderr


def test_the_management_command_says_what_is_missing_in_one_line() -> None:
    ended = manage("manage.py", "work")
    assert ended.returncode == 1
    assert ended.stderr.startswith("CommandError: no adapter")
    assert "Traceback" not in ended.stderr

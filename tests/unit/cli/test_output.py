"""Whatever the standard streams are, a command ends with one line and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unit.support.cli_support import only_line

pytestmark = pytest.mark.skipif(os.name == "nt", reason="as a shell of Unix sets them")

TASK = """
import flux
class Billing(flux.Task):
    topic, group_id = "{topic}", "billing"
    def call(self, message): pass
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    path = tmp_path / "billing.py"
    path.write_text(TASK.format(topic="orders"))
    return str(path)


def flux(*args: str, streams: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`streams`: redirections, as the shell writes them."""
    command = f'exec "$@" {streams}'
    return subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "flux.cli.main", *args],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "FLUX_ADAPTER": "memory://none", **environment},
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [("--version",), ("produce", "--help"), ("backoff", "--load", "CODE", "Billing")])
def test_a_full_disk_is_one_line(code: str, args: tuple[str, ...]) -> None:
    done = flux(*[code if arg == "CODE" else arg for arg in args], streams="> /dev/full")
    assert only_line(done.stderr) == "flux: reading or writing failed: No space left on device"
    assert done.returncode == 1


def test_a_closed_output_is_one_line(code: str) -> None:
    done = flux("backoff", "--load", code, "Billing", streams=">&-")
    assert only_line(done.stderr) == "flux: reading or writing failed: Bad file descriptor"
    assert done.returncode == 1


def test_a_closed_input_is_one_line() -> None:
    done = flux("produce", "orders", streams="<&-")
    assert only_line(done.stderr) == "flux: reading or writing failed: Bad file descriptor"
    assert done.returncode == 1


def test_a_pipe_that_nobody_reads_is_no_line(code: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flux.cli.main", "backoff", "--load", code, "Billing"],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("streams", ["2> /dev/full", "2>&-", ">&- 2>&- <&-"])
def test_an_error_that_cannot_be_said_keeps_its_exit_code(streams: str) -> None:
    done = flux("backoff", "--load", "nothing.py", "Billing", streams=streams)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_a_worker_needs_no_streams(code: str) -> None:
    args = ("process", "--load", code, "--create-topics", "--exit-when-idle", "0.01", "Billing")
    assert flux(*args, streams=">&- 2>&- <&-").returncode == 0


def test_characters_that_the_encoding_lacks_are_escaped() -> None:
    code = (
        "from flux.cli.output import console, prepare\n"
        "prepare(); console().print('B\\u00fcro \\u2026'); print('\\udcff \\u2713')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    )
    assert (done.stderr, done.stdout.split()) == ("", ["B\\xfcro", "\\u2026", "\\udcff", "\\u2713"])

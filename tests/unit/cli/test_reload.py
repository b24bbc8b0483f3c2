from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from flux.cli.reload import Reloader
from flux.consuming.supervision import RESTART
from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

TASK = """
import os
import flux
from helper import VERSION

def tell(what):
    with open("told", "a") as told:
        told.write(f"{what} {VERSION} {os.getpid()}\\n")

class Billing(flux.Task):
    topic, group_id, retries = "orders", "billing", 0

    def setup(self):
        tell("begins")

    def close(self):
        tell("ends")

    def call(self, message): ...
"""
SECONDS = 60.0


@attrs.define
class Reloading:
    process: subprocess.Popen[str]
    directory: Path

    @property
    def shown(self) -> list[list[str]]:
        path = self.directory / "told"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < deadline, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.02)

    def until_told(self, *names: str) -> None:
        self.until(lambda: [shown[:2] for shown in self.shown] == [name.split() for name in names])

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@pytest.fixture
def reloading(tmp_path: Path) -> Iterator[Reloading]:
    (tmp_path / "billing.py").write_text(TASK)
    (tmp_path / "helper.py").write_text("VERSION = 1\n")
    command = [sys.executable, "-m", "flux.cli.main", "process", "--reload", "--load", "billing.py", "--create-topics"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--adapter", "memory://reloading"], cwd=tmp_path, stdout=log, stderr=log, text=True
        )
    yield Reloading(process, tmp_path)
    if process.poll() is None:
        process.kill()
    process.wait(60)


def running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def test_a_change_stops_the_worker_cleanly_and_then_starts_it_again(reloading: Reloading) -> None:
    reloading.until_told("begins 1")
    reloading.write("helper.py", "VERSION = 2\n")
    reloading.until_told("begins 1", "ends 1", "begins 2")
    assert "helper.py changed" in reloading.log
    first, _, second = (pid for _, _, pid in reloading.shown)
    assert first != second
    assert reloading.stop() == 0
    assert [shown[0] for shown in reloading.shown] == ["begins", "ends", "begins", "ends"]
    assert "Traceback" not in reloading.log


def test_a_mistake_in_the_code_is_reported_and_its_correction_starts_it(reloading: Reloading) -> None:
    reloading.until_told("begins 1")
    reloading.write("helper.py", "VERSION = = 3\n")
    reloading.until(lambda: "waiting for a change" in reloading.log)
    assert "helper.py:1: SyntaxError" in reloading.log
    reloading.write("helper.py", "VERSION = 3\n")
    reloading.until_told("begins 1", "ends 1", "begins 3")
    assert reloading.stop(signal.SIGINT) == 0


def test_other_files_change_nothing(reloading: Reloading) -> None:
    reloading.until_told("begins 1")
    reloading.write("notes.txt", "VERSION = 4\n")
    reloading.write("helper.py", "VERSION = 5\n")
    reloading.until_told("begins 1", "ends 1", "begins 5")
    assert "notes.txt" not in reloading.log
    assert reloading.stop() == 0


def test_a_change_within_the_same_second_is_seen(reloading: Reloading) -> None:
    """Python takes bytecode of a source with the same size and the same second for current."""
    reloading.until_told("begins 1")
    helper = reloading.directory / "helper.py"
    before = helper.stat()
    helper.write_text(helper.read_text().replace("1", "2"))
    os.utime(helper, ns=(before.st_atime_ns, before.st_mtime_ns))
    reloading.until_told("begins 1", "ends 1", "begins 2")
    assert reloading.stop() == 0


def test_the_worker_ends_with_the_watching_process(reloading: Reloading) -> None:
    reloading.until_told("begins 1")
    [[_, _, pid]] = reloading.shown
    reloading.process.kill()
    reloading.process.wait(60)
    deadline = time.monotonic() + SECONDS
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(pid)


def test_the_watching_begins_before_the_worker_reads_its_code() -> None:
    steps: list[str] = []

    def changes() -> Iterator[set[str]]:
        steps.append("watching")
        yield set()
        signal.raise_signal(signal.SIGTERM)
        while True:
            yield set()

    def command(lifeline: int) -> list[str]:
        steps.append("starting")
        return [sys.executable, "-S", "-c", ""]

    Reloader(command).run(changes())
    assert steps == ["watching", "starting"]


def test_a_worker_that_asks_for_a_restart_is_started_again_without_a_change() -> None:
    starts: list[int] = []

    def changes() -> Iterator[set[str]]:
        deadline = time.monotonic() + SECONDS
        while len(starts) < 2 and time.monotonic() < deadline:
            yield set()
            time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)
        while True:
            yield set()

    def command(lifeline: int) -> list[str]:
        starts.append(lifeline)
        return [sys.executable, "-S", "-c", f"import sys; sys.exit({RESTART if len(starts) == 1 else 0})"]

    Reloader(command).run(changes())
    assert len(starts) == 2


@pytest.mark.parametrize("args", [["--processes", "2"], ["--exit-when-idle", "1"]])
def test_what_makes_no_sense_together_is_wrong_usage(flux_cli: Flux, args: list[str]) -> None:
    done = flux_cli("process", "--load", "billing.py", "--reload", *args)
    assert done.exit_code == 2
    assert "--reload cannot be combined" in only_line(done.stderr)


def test_without_its_package_it_says_what_to_install(flux_cli: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    monkeypatch.setattr(sys, "argv", ["flux", "process", "--reload"])
    done = flux_cli("process", "--reload")
    assert done.exit_code == 1
    assert 'pip install "super-flux[reload]"' in only_line(done.stderr)

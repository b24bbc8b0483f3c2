from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from flux.adapters.memory import MemoryAdapter
from flux.cli.main import cli
from flux.testing.kafka import IMAGE
from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

NAMES = ["billing.py", "compose.yaml", "test_billing.py"]


def written(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def pytest_in(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_test_that_it_writes_passes_on_the_task_that_it_writes(flux_cli: Flux) -> None:
    done = flux_cli("init")
    assert done.exit_code == 0, done.output
    assert written(flux_cli.directory) == NAMES
    ran = pytest_in(flux_cli.directory)
    assert ran.returncode == 0, ran.stdout
    assert "3 passed" in ran.stdout


def test_the_task_that_it_writes_runs_as_its_text_says(flux_cli: Flux) -> None:
    """With the records that its first lines produce."""
    flux_cli("init")
    code = (flux_cli.directory / "billing.py").read_text()
    printed = re.search(r"printf '(.*)' \| flux produce (\S+) .*(--key-separator :)", code)
    assert printed is not None
    flux_cli.broker.create_topic("invoices")
    records = printed[1].replace("\\n", "\n")
    produced = flux_cli("produce", printed[2], "--adapter", flux_cli.url, *printed[3].split(), input=records)
    assert produced.exit_code == 0, produced.output
    (flux_cli.directory / "billing.py").write_text(code.replace("wait = 5 ", "wait = 0 "))
    args = ["--adapter", flux_cli.url, "--create-topics", "--exit-when-idle", "0.2"]
    done = flux_cli("process", "--load", "billing.py", *args)
    assert done.exit_code == 0, done.output
    assert sorted(done.stdout.splitlines()) == ["sent flaky to b'bob' (attempt 2)", "sent hello to b'ada' (attempt 1)"]
    assert [record.key() for record in flux_cli.broker.records("invoices-billing-dlq")] == [b"eve"]


def test_the_compose_file_has_the_kafka_that_flux_is_tested_with(flux_cli: Flux) -> None:
    flux_cli("init")
    compose = yaml.safe_load((flux_cli.directory / "compose.yaml").read_text())
    kafka = compose["services"]["kafka"]
    assert kafka["image"] == IMAGE
    assert kafka["ports"] == ["127.0.0.1:9092:9092"]
    assert kafka["healthcheck"]["test"][0] == "CMD"


def test_the_next_three_commands_are_printed_and_are_commands(flux_cli: Flux) -> None:
    done = flux_cli("init", "my shop")
    assert written(flux_cli.directory / "my shop") == NAMES
    *wrote, empty, following, test, compose, process = done.stdout.splitlines()
    assert wrote == [f"wrote my shop/{name}" for name in ("billing.py", "test_billing.py", "compose.yaml")]
    assert (empty, following) == ("", "Next:")
    assert test == "  cd 'my shop' && python -m pytest"
    assert compose.split()[:3] == ["docker", "compose", "up"]
    [flux, *args] = shlex.split(process)
    assert flux == "flux"
    shown = flux_cli(*args[:1], "--help")
    assert all(option in shown.output for option in args if option.startswith("--"))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_overwritten_and_nothing_is_written_beside_it(flux_cli: Flux, name: str) -> None:
    (flux_cli.directory / name).write_text("mine")
    done = flux_cli("init")
    assert done.exit_code == 1
    assert f"already has {name}" in only_line(done.stderr)
    assert written(flux_cli.directory) == [name]
    assert (flux_cli.directory / name).read_text() == "mine"


def test_a_directory_that_cannot_be_made_is_one_line(flux_cli: Flux) -> None:
    (flux_cli.directory / "file").write_text("")
    done = flux_cli("init", "file/below")
    assert done.exit_code == 1
    assert "cannot write to file/below" in only_line(done.stderr)


def test_with_an_outbox_it_writes_a_program_whose_test_passes_and_whose_commands_are_commands(
    flux_cli: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryAdapter, "shares_processes", True)  # the commands run in this process
    done = flux_cli("init", "--outbox")
    assert done.exit_code == 0, done.output
    assert written(flux_cli.directory) == sorted([*NAMES, "orders.py", "test_orders.py"])
    ran = pytest_in(flux_cli.directory)
    assert "5 passed" in ran.stdout, ran.stdout
    create, order, relay = done.stdout.splitlines()[-4:-1]
    created = flux_cli(*shlex.split(re.sub("confluent://\\S+", flux_cli.url, create))[1:])
    assert (created.exit_code, created.stdout) == (0, "0 records moved\n")
    subprocess.run([sys.executable, *shlex.split(order)[1:]], cwd=flux_cli.directory, check=True, timeout=60)
    moved = flux_cli("relay", "--database", "sqlite:///orders.db", "--adapter", flux_cli.url, "--once")
    assert moved.stdout == "1 record moved\n"
    assert relay.endswith(" &")


def test_a_directory_whose_name_no_terminal_can_show_is_written_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["init", "a\udcff\x1b"])
    assert result.exit_code == 0, result.output
    assert "wrote a\ufffd\\x1b/billing.py\n" in result.output
    assert (tmp_path / "a\udcff\x1b" / "billing.py").exists()

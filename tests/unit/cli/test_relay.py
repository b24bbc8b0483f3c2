from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from flux.adapters.memory import MemoryAdapter
from unit.support.cli_support import Flux, flux_cli, only_line
from unit.support.outbox_support import Database, prepared

__all__ = ["flux_cli"]


@pytest.fixture(autouse=True)
def outlives_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a relay writes to the in-memory cluster is read by the test, in the same process."""
    monkeypatch.setattr(MemoryAdapter, "shares_processes", True)


@pytest.fixture
def database(flux_cli: Flux) -> Database:
    return prepared(f"sqlite:///{flux_cli.directory / 'shop.db'}")


def test_the_printed_statements_create_the_table(flux_cli: Flux) -> None:
    printed = flux_cli("relay", "--print-table", "sqlite", "--table", "outbox")
    assert printed.exit_code == 0
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(printed.stdout)
        assert db.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    assert "BYTEA" in flux_cli("relay", "--print-table", "postgresql").stdout


def test_once_moves_what_is_there(flux_cli: Flux, database: Database) -> None:
    database.produce(1, 2, key="ada")
    moved = flux_cli("relay", "--database", database.url, "--adapter", flux_cli.url, "--once")
    assert (moved.exit_code, moved.stdout) == (0, "2 records moved\n")
    assert [record.value() for record in flux_cli.broker.records("invoices")] == [b"1", b"2"]


def test_the_database_may_come_from_the_environment_and_the_cluster_from_loaded_code(
    flux_cli: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_DATABASE", f"sqlite:///{flux_cli.directory / 'new.db'}")
    code = flux_cli.file(f"import flux\nflux.configure(adapter={flux_cli.url!r})\n")
    moved = flux_cli("relay", "--load", code, "--create-table", "--once")
    assert (moved.exit_code, moved.stdout) == (0, "0 records moved\n")


def test_it_runs_until_it_is_signalled(flux_cli: Flux, database: Database) -> None:
    database.produce(1)

    def stop() -> None:
        while database.ids():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    ended = flux_cli("relay", "--database", database.url, "--adapter", flux_cli.url, "--metrics-port", "0")
    thread.join(60)
    assert ended.exit_code == 0, ended.output
    assert [record.value() for record in flux_cli.broker.records("invoices")] == [b"1"]


def test_status_shows_rows_their_age_and_what_was_refused(flux_cli: Flux, database: Database) -> None:
    status = ("relay", "--database", database.url, "--status")
    assert re.search(r"^ *0 +0 *$", flux_cli(*status).stdout, re.MULTILINE)
    database.produce(1, 2, key="ada\x1b")
    database.execute("UPDATE flux_outbox SET error = 'too large' WHERE id = 1")
    shown = flux_cli(*status).stdout
    assert re.search(r"^ *2 .*seconds? .* 1 *$", shown, re.MULTILINE)
    assert re.search(r"1 +invoices +ada\\x1b .*too large", shown)
    found = json.loads(flux_cli(*status, "--json").stdout)
    assert (found["rows"], found["refused"], found["oldest"] >= 0) == (2, 1, True)
    [example] = found["examples"]
    assert {name: example[name] for name in ("id", "topic", "key", "error")} == {
        "id": 1,
        "topic": "invoices",
        "key": "ada\x1b",
        "error": "too large",
    }


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "give --database URL, or set FLUX_DATABASE"),
        (["--database", "mysql://u:secret@h/d"], 1, "a database is written postgresql://"),
        (["--database", "sqlite:///none.db", "--table", "a b"], 1, "is no table's name"),
        (["--database", "sqlite:///none.db"], 1, "no adapter"),
        (["--database", "sqlite:///none.db", "--status"], 1, "does not exist: create it with --create-table"),
        (["--database", "sqlite:////nowhere/x.db", "--status"], 1, "unable to open database file"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(flux_cli: Flux, args: list[str], code: int, message: str) -> None:
    failed = flux_cli("relay", *args)
    assert failed.exit_code == code
    assert message in only_line(failed.stderr)
    assert "secret" not in failed.output


def test_an_outage_of_the_cluster_is_one_line(
    flux_cli: Flux, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.outbox.relay.DELIVERY_TIMEOUT", 0.05)
    database.produce(1)
    flux_cli.broker.available = False
    failed = flux_cli("relay", "--database", database.url, "--adapter", flux_cli.url, "--once")
    assert failed.exit_code == 1
    assert "the cluster takes no records" in failed.stderr
    assert len(database.ids()) == 1


@pytest.mark.parametrize("options", [["--once"], []])
def test_it_moves_nothing_to_a_cluster_inside_its_own_process(
    flux_cli: Flux, database: Database, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(MemoryAdapter, "shares_processes", False)
    database.produce(1)
    failed = flux_cli("relay", "--database", database.url, "--adapter", flux_cli.url, *options)
    assert failed.exit_code == 2
    assert f"{flux_cli.url} ends with this process, and the records with it" in only_line(failed.stderr)
    assert len(database.ids()) == 1


def test_creating_the_table_is_said_with_what_follows(flux_cli: Flux) -> None:
    args = ["relay", "--database", f"sqlite:///{flux_cli.directory / 'new.db'}", "--adapter", flux_cli.url]
    moved = flux_cli(*args, "--create-table", "--once")
    assert only_line(moved.stderr) == "table flux_outbox exists; moving its rows, once"
    shown = flux_cli(*args, "--create-table", "--status")
    assert only_line(shown.stderr) == "table flux_outbox exists"


def test_every_option_is_on_the_page(flux_cli: Flux) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "outbox.md").read_text()
    options = set(re.findall(r"--[a-z-]+", flux_cli("relay", "--help").stdout))
    missing = {option for option in options if option not in page}
    assert missing <= {"--help", "--metrics-host", "--log-level", "--log-format"}

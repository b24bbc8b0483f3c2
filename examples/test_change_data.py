from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import change_data
import pytest
from change_data import CopyAccounts, Table

from flux.testing import Kit


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    path = str(tmp_path / "accounts.sqlite")
    monkeypatch.setattr(change_data, "Table", lambda _: Table(path))
    made = Table(path)
    yield made
    made.close()


def change(kit: Kit, account: str, cents: int) -> None:
    kit.produce("shop.accounts", json={"op": "u", "after": {"cents": cents}}, key=account)


def accounts(table: Table) -> dict[str, int]:
    return dict(table.execute("SELECT id, cents FROM accounts"))


def test_the_newest_state_of_each_row_wins(flux_kit: Kit, table: Table) -> None:
    for cents in (5, 7, 9):
        change(flux_kit, "ada", cents)
        change(flux_kit, "bob", cents + 1)
    flux_kit.produce("shop.accounts", json={"op": "d"}, key="bob")
    flux_kit.run(CopyAccounts)
    assert accounts(table) == {"ada": 9}


def test_later_changes_of_a_row_wait_for_one_that_fails(
    flux_kit: Kit, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Table.execute

    def fails_once(self: Table, statement: str, *values: object) -> list[tuple[object, ...]]:
        if values == ("ada", 5):
            monkeypatch.setattr(Table, "execute", write)
            raise ConnectionResetError
        return write(self, statement, *values)

    monkeypatch.setattr(Table, "execute", fails_once)
    change(flux_kit, "ada", 5)
    change(flux_kit, "ada", 7)
    change(flux_kit, "bob", 1)
    flux_kit.run(CopyAccounts)
    assert accounts(table) == {"bob": 1}
    flux_kit.run_to_the_end(CopyAccounts)
    assert accounts(table) == {"ada": 7, "bob": 1}


def test_a_change_that_can_never_be_written_stops_its_row_alone(flux_kit: Kit, table: Table) -> None:
    change(flux_kit, "ada", -5)  # the table refuses it
    change(flux_kit, "ada", 7)
    change(flux_kit, "bob", 1)
    flux_kit.run_to_the_end(CopyAccounts)
    assert accounts(table) == {"bob": 1}
    assert flux_kit.dead_letters(CopyAccounts).one().error_type == "sqlite3.IntegrityError"
    flux_kit.reject(CopyAccounts)
    flux_kit.run(CopyAccounts)
    assert accounts(table) == {"ada": 7, "bob": 1}


def test_a_locked_database_is_no_failure_of_a_change(
    flux_kit: Kit, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    change(flux_kit, "ada", 5)
    with monkeypatch.context() as patch:
        patch.setattr(Table, "execute", locked)
        flux_kit.run(CopyAccounts)
    assert flux_kit.waiting(CopyAccounts) == []
    flux_kit.run(CopyAccounts)
    assert accounts(table) == {"ada": 5}

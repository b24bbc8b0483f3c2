"""The table in both databases: what a relay takes, what it leaves to others, and what an operator sees."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest

import flux
from flux.core.outbox.rows import LANES, key_hash
from flux.core.ports import ProducerRecord
from flux.core.ports.outbox import Excluded, OutboxRow, StoreUnavailable
from flux.outbox import Outbox, open_store
from unit.support.outbox_support import Database, Invoices

MANY = 10_000_000


def keys_in_different_quarters() -> list[str]:
    """Two keys whose lanes differ."""
    lanes = {key_hash("invoices", name.encode(), None, None, 0) % LANES: name for name in map(str, range(200))}
    return [lanes[0], lanes[1]]


def values(rows: Any) -> list[bytes]:
    return [row.record.value for row in rows]


def test_rows_come_back_as_they_were_produced_and_in_their_order(database: Database) -> None:
    with database.transaction() as db:
        Outbox.produce(db, Invoices, b"\0\xff", key=b"\xfe", headers={"trace": "1", "none": None}, timestamp=5)
        Outbox.produce(db, Invoices, None, partition_key="ada")
        Outbox.produce(db, Invoices, "", key="", partition=3)
    with closing(database.store()) as store:
        first, second, third = store.take(Excluded(), 10, MANY)
        assert isinstance(first, OutboxRow)
        *headers, outbox_id = first.record.headers
        assert first.record._replace(headers=()) == ProducerRecord(b"\0\xff", b"\xfe", (), None, 5)
        assert headers == [("trace", b"1"), ("none", None)]
        assert outbox_id[0] == "outbox-id"
        assert (second.record.value, second.record.key, second.partition_key) == (None, None, b"ada")
        assert (third.record.value, third.record.key, third.record.partition) == (b"", b"", 3)


def test_a_transaction_that_is_rolled_back_leaves_no_row(database: Database) -> None:
    with suppress(ZeroDivisionError), database.transaction() as db:
        Outbox.produce(db, Invoices, "x")
        _ = 1 / 0
    assert database.ids() == []


def test_a_turn_is_bounded_by_rows_and_by_bytes(database: Database) -> None:
    database.produce(*["x" * 100] * 10, key="ada")
    with closing(database.store()) as store:
        assert len(store.take(Excluded(), 4, MANY)) == 4
        store.finish([], {})
        assert 1 < len(store.take(Excluded(), 10, 500)) < 5
        store.finish([], {})
        assert len(store.take(Excluded(), 10, 1)) == 1


def test_what_is_excluded_is_not_taken_however_many_rows_it_has(database: Database) -> None:
    class Orders(flux.Producer):
        topic = "orders"

    database.produce(*range(10), key="ada")
    database.produce("bob", key="bob")
    database.produce("order", key="ada", producer=Orders)
    ada = key_hash("invoices", b"ada", None, None, 0)
    with closing(database.store()) as store:
        taken: list[bytes] = []
        while rows := store.take(Excluded(key_hashes=(ada,)), 2, MANY):
            taken += values(rows)
            store.finish([row.id for row in rows], {})
        assert sorted(taken) == [b"bob", b"order"]
        assert store.take(Excluded(topics=("invoices",)), 2, MANY) == []


def test_what_is_done_is_deleted_and_what_was_refused_says_why(database: Database) -> None:
    database.produce(1, 2, 3, key="ada")
    with closing(database.store()) as store:
        first, second, third = store.take(Excluded(), 10, MANY)
        store.finish([first.id], {second.id: "too large"})
        assert database.ids() == [second.id, third.id]
        status = store.status()
        assert (status.rows, status.refused) == (2, 1)
        assert status.oldest is not None
        assert 0 <= status.oldest < 60
        [refused] = status.examples
        assert (refused.id, refused.topic, refused.key, refused.error) == (second.id, "invoices", b"ada", "too large")
        assert 0 <= refused.age < 60


def test_an_empty_table_has_no_oldest_row(database: Database) -> None:
    with closing(database.store()) as store:
        status = store.status()
        assert (status.rows, status.oldest, status.refused, status.examples) == (0, None, 0, [])


def test_ids_are_never_used_again(database: Database) -> None:
    database.produce(1)
    [first] = database.ids()
    database.execute("DELETE FROM flux_outbox")
    database.produce(2)
    [second] = database.ids()
    assert second > first


def test_to_create_a_table_that_exists_changes_nothing(database: Database) -> None:
    database.produce(1)
    with closing(database.store()) as store:
        store.create()
    assert len(database.ids()) == 1


def test_a_missing_table_is_named_with_its_remedy(database: Database) -> None:
    store = open_store(database.url, "elsewhere")
    with pytest.raises(flux.ConfigurationError, match=r"elsewhere in .* does not exist: create it with --create-table"):
        store.take(Excluded(), 1, MANY)


def test_a_relay_takes_no_rows_of_a_key_that_another_one_has(database: Database) -> None:
    database.produce(1, 2, key="ada")
    with closing(database.store()) as one, closing(database.store()) as other:
        assert values(one.take(Excluded(), 1, MANY)) == [b"1"]
        assert other.take(Excluded(), 10, MANY) == []


def test_relays_work_beside_each_other_in_postgresql(postgresql: Database) -> None:
    ada, bob = keys_in_different_quarters()
    postgresql.produce(1, 2, key=ada)
    postgresql.produce(3, 4, key=bob)
    with closing(postgresql.store()) as one, closing(postgresql.store()) as other, postgresql.transaction() as db:
        lock = one._class  # type: ignore[attr-defined]  # another relay has the lane of ada
        db.execute("SELECT pg_advisory_xact_lock(%s, 0)", (lock,))
        taken = one.take(Excluded(), 1, MANY)
        assert values(taken) == [b"3"]
        db.execute("COMMIT")
        rest = other.take(Excluded(), 10, MANY)
        # lanes are taken some at a time: bob's was taken, and with it perhaps no other
        assert values(rest) in ([b"1", b"2"], [])
        one.finish([row.id for row in taken], {})
        other.finish([row.id for row in rest], {})
    assert len(postgresql.ids()) == 3 - len(rest)


def test_a_lane_is_free_when_its_relay_has_died(database: Database) -> None:
    database.produce(1, key="ada")
    one, other = database.store(), database.store()
    assert len(one.take(Excluded(), 1, MANY)) == 1
    one.close()  # as the kernel does for a process that is killed
    with closing(other):
        assert len(other.take(Excluded(), 1, MANY)) == 1


def test_a_turn_holds_back_neither_writers_nor_vacuum(database: Database) -> None:
    database.produce(1, key="ada")
    with closing(database.store()) as store:
        store.take(Excluded(), 1, MANY)
        database.produce(2, key="ada")
        if not database.url.startswith("sqlite"):
            held = database.execute(
                "SELECT backend_xid, backend_xmin FROM pg_stat_activity WHERE application_name = 'flux relay'"
            )
            assert held == [(None, None)]


def test_a_database_that_ends_the_connection_is_unavailable_and_then_connected_again(postgresql: Database) -> None:
    postgresql.produce(1, key="ada")
    with closing(postgresql.store()) as store:
        [row] = store.take(Excluded(), 1, MANY)
        postgresql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flux relay'"
        )
        with pytest.raises(StoreUnavailable, match=r"flux_outbox in 127.0.0.1/postgres"):
            store.finish([row.id], {})
        assert values(store.take(Excluded(), 1, MANY)) == [b"1"]


def test_a_database_that_is_down_is_unavailable_and_its_password_is_not_shown() -> None:
    store = open_store("postgresql://ada:secret@127.0.0.1:1/shop")
    with pytest.raises(StoreUnavailable, match=r"flux_outbox in 127.0.0.1/shop") as raised:
        store.status()
    assert "secret" not in str(raised.value)


def test_a_sqlite_database_in_a_missing_folder_is_unavailable() -> None:
    store = open_store("sqlite:////nowhere/orders.db")
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        store.take(Excluded(), 1, MANY)
    with pytest.raises(StoreUnavailable, match="unable to open"):
        store.status()


@pytest.mark.parametrize(
    "url", ["", "orders.db", "sqlite://", "sqlite:///", "mysql://u:secret@h/d", "postgresql://u:secret@[::h/d"]
)
def test_an_url_of_no_database_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(flux.ConfigurationError, match=r"is written.* postgresql://USER@HOST:PORT/DATABASE") as raised:
        open_store(url).status()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("table", ["", "a b", "x; DROP TABLE y", "a.b.c", "1x", None])
def test_what_is_no_name_of_a_table_is_refused(table: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match="is no table's name"):
        open_store("sqlite:///x.db", table)


def test_the_urls_of_sqlalchemy_are_understood(sqlite: Database, postgresql: Database) -> None:
    for url in (sqlite.url.replace("sqlite:", "sqlite+pysqlite:"), postgresql.url.replace(":", "+psycopg:", 1)):
        with closing(open_store(url)) as store:
            assert store.status().rows == 0


def test_a_table_may_be_in_a_schema(postgresql: Database) -> None:
    class Billing(Outbox):
        table = "billing.outbox"

    postgresql.execute("CREATE SCHEMA IF NOT EXISTS billing")
    with closing(open_store(postgresql.url, "billing.outbox")) as store:
        store.create()
        with psycopg.connect(postgresql.url) as db:
            Billing.produce(db, Invoices, "1")
        assert len(store.take(Excluded(), 1, MANY)) == 1
        store.finish([], {})
    postgresql.execute("DROP SCHEMA billing CASCADE")


def test_a_dba_reads_the_rows_of_sqlite_as_they_are(sqlite: Database) -> None:
    sqlite.produce("hello", key="ada")
    with closing(sqlite3.connect(sqlite.url.removeprefix("sqlite:///"))) as db:
        [(topic, key, value, error)] = db.execute("SELECT topic, key, value, error FROM flux_outbox").fetchall()
    assert (topic, key, value, error) == ("invoices", b"ada", b"hello", None)

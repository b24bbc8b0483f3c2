"""`Outbox.produce` through the connections that people have."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import flux
from flux.outbox import Outbox
from unit.support.outbox_support import Database, Invoices


def stored(database: Database) -> list[tuple[Any, ...]]:
    return [
        (bytes(key), bytes(value)) for key, value in database.execute("SELECT key, value FROM flux_outbox ORDER BY id")
    ]


@pytest.fixture
def engine(database: Database) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(database.url.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


def test_a_session_of_sqlalchemy(database: Database, engine: sqlalchemy.Engine) -> None:
    with Session(engine) as session, session.begin():
        Outbox.produce(session, Invoices, b"\0\xff", key="ada")
    with Session(engine) as session:
        Outbox.produce(session, Invoices, "no commit", key="ada")
    scoped = scoped_session(sessionmaker(engine))
    Outbox.produce(scoped, Invoices, "scoped", key="bob")
    scoped.commit()
    scoped.remove()
    assert stored(database) == [(b"ada", b"\0\xff"), (b"bob", b"scoped")]


def test_a_connection_of_sqlalchemy(database: Database, engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        Outbox.produce(connection, Invoices, "1", key="ada")
    with engine.connect() as connection:
        Outbox.produce(connection, Invoices, "no commit", key="ada")
    assert stored(database) == [(b"ada", b"1")]


def test_sqlalchemy_in_autocommit_is_refused(database: Database, engine: sqlalchemy.Engine) -> None:
    by_engine = sqlalchemy.create_engine(engine.url, isolation_level="AUTOCOMMIT")
    for given in (engine.execution_options(isolation_level="AUTOCOMMIT"), by_engine):
        with given.connect() as connection, pytest.raises(flux.ConfigurationError, match="begin a transaction first"):
            Outbox.produce(connection, Invoices, "1")
    by_engine.dispose()
    assert stored(database) == []


def test_async_sessions_and_connections(postgresql: Database) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine

    class Own(AsyncSession):
        pass

    async def produce() -> None:
        engine = create_async_engine(postgresql.url.replace("postgresql:", "postgresql+psycopg:"))
        async with Own(engine) as session, session.begin():
            await Outbox.aproduce(session, Invoices, "1", key="ada")
        scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        await Outbox.aproduce(scoped, Invoices, "scoped", key="ada")
        await scoped.commit()
        await scoped.remove()
        async with engine.begin() as connection:
            await Outbox.aproduce(connection, Invoices, "2", key="ada")
            with pytest.raises(flux.ConfigurationError, match=r"needs: await Outbox.aproduce"):
                Outbox.produce(connection, Invoices, "3")
        await engine.dispose()
        async with await psycopg.AsyncConnection.connect(postgresql.url) as own:
            await Outbox.aproduce(own, Invoices, "3", key="bob")
        with sqlite3.connect(":memory:") as db, pytest.raises(flux.ConfigurationError, match=r"needs: Outbox.produce"):
            await Outbox.aproduce(db, Invoices, "4")

    asyncio.run(produce())
    assert stored(postgresql) == [(b"ada", b"1"), (b"ada", b"scoped"), (b"ada", b"2"), (b"bob", b"3")]


def test_a_connection_of_psycopg(postgresql: Database) -> None:
    with psycopg.connect(postgresql.url) as db:
        Outbox.produce(db, Invoices, "1", key="ada")
    with psycopg.connect(postgresql.url, autocommit=True) as db:
        with pytest.raises(flux.ConfigurationError, match="autocommit mode: begin a transaction first"):
            Outbox.produce(db, Invoices, "2", key="ada")
        with db.transaction():
            Outbox.produce(db, Invoices, "3", key="ada")
    assert stored(postgresql) == [(b"ada", b"1"), (b"ada", b"3")]


def test_a_connection_of_sqlite3(sqlite: Database) -> None:
    path = sqlite.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as db, db:
        Outbox.produce(db, Invoices, "1", key="ada")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        with pytest.raises(flux.ConfigurationError, match="autocommit mode"):
            Outbox.produce(db, Invoices, "2", key="ada")
        db.execute("BEGIN")
        Outbox.produce(db, Invoices, "3", key="ada")
        db.execute("COMMIT")
    if sys.version_info >= (3, 12):
        with (
            closing(sqlite3.connect(path, autocommit=True)) as db,
            pytest.raises(flux.ConfigurationError, match="autocommit mode"),
        ):
            Outbox.produce(db, Invoices, "4", key="ada")
    assert stored(sqlite) == [(b"ada", b"1"), (b"ada", b"3")]


@pytest.mark.parametrize("given", [None, "postgresql://", object()])
def test_something_else_is_refused_with_what_is_taken(given: object) -> None:
    with pytest.raises(flux.ConfigurationError, match=r"Outbox\.produce takes a Session or Connection of SQLAlchemy"):
        Outbox.produce(given, Invoices, "1")


def test_another_database_is_refused() -> None:
    connection = sqlalchemy.create_engine("sqlite://").connect()
    connection.dialect.name = "mysql"
    with connection, pytest.raises(flux.ConfigurationError, match="mysql is not supported: postgresql or sqlite"):
        Outbox.produce(connection, Invoices, "1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"value": 1}, "a value for Invoices must be str"),
        ({"value": "", "key": 1}, "a key must be str"),
        ({"value": "", "partition_key": 1}, "partition_key must be str"),
        ({"value": "", "partition_key": "a", "partition": 1}, "give partition or partition_key"),
        ({"value": "", "partition": -1}, "partition must be a whole number"),
        ({"value": "", "timestamp": 0.5}, "timestamp"),
        ({"value": "", "headers": 5}, "headers must be"),
    ],
)
def test_what_a_producer_refuses_is_refused_before_it_is_in_the_table(
    sqlite: Database, given: dict[str, Any], message: str
) -> None:
    with sqlite.transaction() as db, pytest.raises(flux.ConfigurationError, match=message):
        Outbox.produce(db, Invoices, **given)
    assert stored(sqlite) == []


def test_what_is_no_producer_is_refused(sqlite: Database) -> None:
    class Nameless(flux.Producer):
        pass

    given: list[tuple[Any, str]] = [("invoices", "give a flux.Producer, not str"), (Nameless, "Nameless has no topic")]
    for producer, message in given:
        with sqlite.transaction() as db, pytest.raises(flux.ConfigurationError, match=message):
            Outbox.produce(db, producer, "1")


def test_a_producer_of_another_cluster_needs_an_outbox_of_that_cluster(sqlite: Database) -> None:
    class Elsewhere(flux.Producer):
        topic = "invoices"
        adapter = "memory://elsewhere"

    class Box(Outbox):
        adapter = "memory://elsewhere"

    with sqlite.transaction() as db:
        with pytest.raises(flux.ConfigurationError, match="has an adapter of its own"):
            Outbox.produce(db, Elsewhere, "1")
        Box.produce(db, Elsewhere, "1", key="ada")
    assert stored(sqlite) == [(b"ada", b"1")]


def test_an_instance_and_its_serializer_are_used_and_the_id_is_in_the_headers(sqlite: Database) -> None:
    class Orders(flux.Producer):
        topic = "orders"
        serializer = staticmethod(flux.serde.json_serializer)

    with sqlite.transaction() as db:
        id = Outbox.produce(db, Orders(), {"id": 1}, key="ada", headers={"trace": "1"})
    [(topic, value, headers)] = sqlite.execute("SELECT topic, value, headers FROM flux_outbox")
    assert (topic, json.loads(value)) == ("orders", {"id": 1})
    assert json.loads(headers) == [["trace", "1"], ["outbox-id", id]]


def test_a_producer_with_a_type_writes_its_values(sqlite: Database) -> None:
    @dataclass
    class Order:
        id: int

    class Orders(flux.Producer[Order]):
        topic = "orders"

    class Texts(flux.Producer):
        topic = "orders"

    with sqlite.transaction() as db:
        Outbox.produce(db, Orders, Order(1))
        with pytest.raises(flux.ConfigurationError, match="a tombstone for"):
            Outbox.produce(db, Orders, None)  # type: ignore[misc]
        Outbox.produce(db, Texts, "before")
        Texts.serializer = staticmethod(lambda value: value.upper())
        Outbox.produce(db, Texts, "after")
    assert sqlite.execute("SELECT value FROM flux_outbox ORDER BY id") == [(b'{"id":1}',), (b"before",), (b"AFTER",)]


DJANGO = """
import sys

from django.conf import settings

engine, name, port = sys.argv[1:]
database = {"ENGINE": f"django.db.backends.{engine}", "NAME": name, "USER": "postgres"}
database |= {"HOST": "127.0.0.1", "PORT": port}
settings.configure(DATABASES={"default": database}, USE_TZ=True)

import django
from django.db import connection, transaction

django.setup()
import flux
from flux.outbox import Guard, Outbox
from flux.testing import kit


class Invoices(flux.Producer):
    topic = "invoices"


try:
    Outbox.produce(connection, Invoices, "alone", key="ada")
except flux.ConfigurationError as error:
    print(error)
with transaction.atomic():
    Outbox.produce(connection, Invoices, bytes([0, 255]), key="ada")

guard = Guard("billing", transaction.atomic)
with transaction.atomic():
    guard.create_table(connection)


@flux.task(topic="invoices", group_id="billing", middleware=[guard], retries=1, wait=0)
def bill(message):
    Outbox.produce(guard.connection, Invoices, f"attempt {message.attempt}", key="bob")
    if message.attempt == 1:
        raise ConnectionError


with kit() as made:
    made.produce("invoices", "x")
    made.run_to_the_end(bill)
"""


def test_a_connection_of_django(database: Database) -> None:
    """In a process of its own: Django is configured once."""
    pytest.importorskip("django")
    database.execute("DROP TABLE IF EXISTS flux_guard")
    url = urlsplit(database.url)
    engine, name = ("sqlite3", url.path[1:]) if url.scheme == "sqlite" else ("postgresql", url.path[1:])
    ran = subprocess.run(
        [sys.executable, "-c", DJANGO, engine, name, str(url.port or "")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "the connection is in autocommit mode: begin a transaction first" in ran.stdout
    assert stored(database) == [(b"ada", b"\0\xff"), (b"bob", b"attempt 2")]

"""A database with an outbox, and what the tests of the outbox share."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import psycopg

import flux
from flux.core.ports.outbox import OutboxStore
from flux.outbox import Outbox, open_store

sys.path.append(str(Path(__file__).parents[3] / "examples" / "pipeline"))

from postgres import postgres_or_skipped as postgres_or_skipped


class Invoices(flux.Producer):
    topic = "invoices"


@attrs.frozen
class Database:
    url: str

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """The end of the block commits it, an exception rolls it back."""
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=30)) as db, db:
                yield db
        else:
            with psycopg.connect(self.url) as connection:
                yield connection

    def execute(self, statement: str) -> list[Any]:
        with self.transaction() as db:
            cursor = db.execute(statement)
            return [] if cursor.description is None else cursor.fetchall()

    def produce(self, *values: object, key: str | None = None, **more: Any) -> None:
        with self.transaction() as db:
            for value in values:
                Outbox.produce(db, more.get("producer", Invoices), str(value), key=key)

    def ids(self) -> list[int]:
        return [id for (id,) in self.execute("SELECT id FROM flux_outbox ORDER BY id")]

    def store(self) -> OutboxStore:
        return open_store(self.url)


def prepared(url: str) -> Database:
    """With an empty outbox."""
    database = Database(url)
    database.execute("DROP TABLE IF EXISTS flux_outbox")
    store = database.store()
    store.create()
    store.close()
    return database

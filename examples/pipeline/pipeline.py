"""Loads readings of sensors into PostgreSQL: batches, each one transaction, each reading once.

See README.md beside it.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import datetime

import psycopg

import flux
from flux.serde import json_deserializer

Row = tuple[str, str, datetime, float]

DATABASE = os.environ.get("DATABASE_URL", "postgresql://localhost/readings")


class LoadReadings(flux.BatchTask):
    topic = "readings"
    group_id = "warehouse"
    max_batch = 500
    max_wait = 1.0
    concurrency = 4  # batches, and so connections
    pause_on = (psycopg.OperationalError,)  # the database is unavailable: no reading is at fault
    deserializer = json_deserializer

    def call(self, messages: Sequence[flux.Message]) -> None:
        rows: dict[flux.Message, Row] = {}
        failures: dict[flux.Message, BaseException] = {}
        for message in messages:
            try:
                rows[message] = row(message)
            except (KeyError, TypeError, ValueError) as error:
                failures[message] = flux.Reject(f"no reading: {error!r}")
        with psycopg.connect(DATABASE) as connection:
            try:
                copy(connection, rows.values())
            except (psycopg.DataError, psycopg.IntegrityError):
                connection.rollback()
                failures |= insert_each(connection, rows)
        # The transaction is committed here: the named readings move to the next stage, the others are done.
        if failures:
            raise flux.BatchFailure(failures)


def row(message: flux.Message) -> Row:
    """Raises KeyError, TypeError or ValueError if the value is not a reading."""
    reading = message.value
    return message.id, reading["sensor"], datetime.fromisoformat(reading["taken_at"]), float(reading["celsius"])


def copy(connection: psycopg.Connection, rows: Iterable[Row]) -> None:
    """The fast path: all rows or none. Rows that exist are not changed."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE incoming (LIKE readings INCLUDING CONSTRAINTS) ON COMMIT DROP")
        with cursor.copy("COPY incoming FROM STDIN") as out:
            for each in rows:
                out.write_row(each)
        cursor.execute("INSERT INTO readings SELECT * FROM incoming ON CONFLICT (id) DO NOTHING")


def insert_each(
    connection: psycopg.Connection, rows: dict[flux.Message, Row]
) -> dict[flux.Message, psycopg.DataError | psycopg.IntegrityError]:
    """The slow path, which finds the rows that the database refuses: each has its own savepoint."""
    refused = {}
    for message, values in rows.items():
        try:
            with connection.transaction():
                connection.execute("INSERT INTO readings VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO NOTHING", values)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            refused[message] = error
    return refused

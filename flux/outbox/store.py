"""What the two databases share: rows, counts and the end of a turn, by DB-API."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from flux.core.outbox.rows import load_headers
from flux.core.ports import ProducerRecord
from flux.core.ports.outbox import OutboxRow, OutboxStatus, RefusedRow
from flux.outbox.statements import Dialect, Statements, create_outbox


class SqlStore(ABC):
    """Most of `flux.core.ports.outbox.OutboxStore`. A subclass connects, takes lanes, and translates errors."""

    def __init__(self, table: str, dialect: Dialect, mark: str) -> None:
        self._table = table
        self._dialect = dialect
        self._sql = Statements(table, dialect, mark)
        self._connection: Any = None

    @abstractmethod
    def _connect(self) -> Any:
        """A connection in which nothing begins a transaction by itself."""

    @abstractmethod
    def _translating(self) -> Any:
        """A context that turns the driver's errors into StoreUnavailable or ConfigurationError."""

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """The connection; after any error it is closed, which ends its transaction."""
        try:
            with self._translating():
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
        except BaseException:
            self.close()
            raise

    def finish(self, done: Sequence[int], refused: Mapping[int, str]) -> None:
        with self._connected() as db:
            self._begin_finish(db)
            if done:
                db.execute(self._sql.delete(done), list(done))
            for id, error in refused.items():
                db.execute(self._sql.refuse, (error, id))
            db.execute("COMMIT")

    @abstractmethod
    def _begin_finish(self, db: Any) -> None: ...

    def status(self) -> OutboxStatus:
        with self._connected() as db:
            oldest = db.execute(self._sql.oldest).fetchone()
            [rows] = db.execute(self._sql.count()).fetchone()
            [refused] = db.execute(self._sql.count("WHERE error IS NOT NULL")).fetchone()
            found = db.execute(self._sql.examples).fetchall() if refused else []
        examples = [
            RefusedRow(id, topic, None if key is None else bytes(key), error, float(age))
            for id, topic, key, error, age in found
        ]
        return OutboxStatus(rows, None if oldest is None else max(0.0, float(oldest[0])), refused, examples)

    def create(self) -> None:
        with self._connected() as db:
            for statement in create_outbox(self._table, self._dialect):
                db.execute(statement)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def rows_of(found: Sequence[tuple[Any, ...]]) -> list[OutboxRow]:
    """Of what `Statements.take` selects."""
    return [
        OutboxRow(
            id,
            topic,
            ProducerRecord(_bytes(value), _bytes(key), load_headers(headers), partition, timestamp),
            _bytes(partition_key),
            key_hash,
        )
        for id, topic, key, value, headers, partition, partition_key, timestamp, key_hash in found
    ]


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)

"""The outbox in SQLite. One relay works at a time, because SQLite cannot lock a part of a table: the others wait for a
lock on a file beside the database, which its holder's death releases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from flux.core.errors import ConfigurationError
from flux.core.outbox.rows import LANES
from flux.core.ports.outbox import Excluded, OutboxRow, StoreUnavailable
from flux.outbox.statements import checked_table
from flux.outbox.store import SqlStore, rows_of

BUSY = 10.0
"""Seconds that it waits for another writer."""


class SqliteStore(SqlStore):
    """`flux.core.ports.outbox.OutboxStore` for the database file `path`."""

    def __init__(self, path: str | Path, table: str = "flux_outbox") -> None:
        super().__init__(checked_table(table), "sqlite", "?")
        self._path = Path(path)
        self._lock: IO[bytes] | None = None

    def __str__(self) -> str:
        return f"{self._table} in {self._path}"

    def _connect(self) -> sqlite3.Connection:
        # any thread: the relay's own may differ from the one that made the store
        return sqlite3.connect(self._path, timeout=BUSY, isolation_level=None, check_same_thread=False)

    def take(self, excluded: Excluded, most: int, most_bytes: int) -> Sequence[OutboxRow]:
        if not self._locked():
            return []
        with self._connected() as db:
            return rows_of(db.execute(*self._sql.take(range(LANES), excluded, most, most_bytes)).fetchall())

    def _begin_finish(self, db: Any) -> None:
        db.execute("BEGIN IMMEDIATE")

    def _locked(self) -> bool:
        """Whether this is the relay that works; it stays so until `close`."""
        if self._lock is not None:
            return True
        try:
            import fcntl
        except ImportError:  # Windows
            raise ConfigurationError("the relay of a SQLite database runs on Linux and macOS") from None
        path = self._path.with_name(f"{self._path.name}-{self._table}.lock")
        try:
            file = path.open("ab")
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._lock = file
        return True

    def close(self) -> None:
        super().close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "no such table" in str(error):
                raise ConfigurationError(f"{self} does not exist: create it with --create-table") from None
            raise StoreUnavailable(f"{self}: {error}") from None

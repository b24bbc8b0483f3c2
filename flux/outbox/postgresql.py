"""The outbox in PostgreSQL. A relay takes lanes by advisory locks that end with its transaction, also when its process,
its machine or the network dies. The transaction holds no row, and keeps no vacuum from its work."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flux.core.errors import ConfigurationError
from flux.core.outbox.rows import LANES
from flux.core.ports.outbox import Excluded, OutboxRow, StoreUnavailable
from flux.outbox.statements import checked_table
from flux.outbox.store import SqlStore, rows_of

CONNECT_TIMEOUT = 10
"""Seconds."""
STATEMENT_TIMEOUT = 30_000
"""Milliseconds."""
IDLE_TIMEOUT = 120_000
"""Milliseconds after which the server ends the transaction of a relay that is frozen."""
AT_ONCE = LANES // 4
"""Lanes that one transaction takes, so that others have work, too."""


class PostgresStore(SqlStore):
    """`flux.core.ports.outbox.OutboxStore` for a database at `url`, with psycopg."""

    def __init__(self, url: str, table: str = "flux_outbox") -> None:
        super().__init__(checked_table(table), "postgresql", "%s")
        try:
            import psycopg
        except ImportError:
            raise ConfigurationError('PostgreSQL needs a package: pip install "super-flux[outbox]"') from None
        self._psycopg = psycopg
        self._url = url
        try:
            known = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError:  # whose message may quote a password
            raise ConfigurationError("a PostgreSQL database is written postgresql://USER@HOST:PORT/DATABASE") from None
        self._place = f"{known.get('host', 'localhost')}/{known.get('dbname', '')}"
        self._class = zlib.crc32(table.encode()) - 2**31
        """The first number of the advisory locks; the second is the lane."""

    def __str__(self) -> str:
        return f"{self._table} in {self._place}"

    def _connect(self) -> Any:
        # autocommit: transactions begin where this file begins them. ClientCursor: a statement whose parameters are
        # sent apart keeps its snapshot until the next statement, and so dead rows from vacuum.
        given: Any = {
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": STATEMENT_TIMEOUT + 10_000,
            "connect_timeout": CONNECT_TIMEOUT,
            "application_name": "flux relay",
        }
        given |= self._psycopg.conninfo.conninfo_to_dict(self._url)
        return self._psycopg.connect(**given, autocommit=True, cursor_factory=self._psycopg.ClientCursor)

    def take(self, excluded: Excluded, most: int, most_bytes: int) -> Sequence[OutboxRow]:
        with self._connected() as db:
            db.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            db.execute(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT}")
            db.execute(f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_TIMEOUT}")
            lanes = self._lanes_with_rows(db)
            for start in range(0, len(lanes), AT_ONCE):
                locked = self._locked(db, lanes[start : start + AT_ONCE])
                if locked:
                    statement, parameters = self._sql.take(locked, excluded, most, most_bytes)
                    # a new snapshot, taken after the locks: it has what their former holders have deleted
                    rows = rows_of(db.execute(statement, parameters).fetchall())
                    if rows:
                        return rows
            db.execute("COMMIT")
            return []

    def _lanes_with_rows(self, db: Any) -> list[int]:
        """In another order each time, so that relays meet seldom and no lane is always the last."""
        found = db.execute(
            f"SELECT n FROM generate_series(0, {LANES - 1}) AS n"
            f" WHERE EXISTS (SELECT 1 FROM {self._table} WHERE lane = n)"
        )
        lanes = [lane for (lane,) in found]
        random.shuffle(lanes)
        return lanes

    def _locked(self, db: Any, lanes: Sequence[int]) -> list[int]:
        found = db.execute(
            "SELECT n FROM unnest(%s::int[]) AS n WHERE pg_try_advisory_xact_lock(%s, n)", (list(lanes), self._class)
        )
        return [lane for (lane,) in found]

    def _begin_finish(self, db: Any) -> None:
        """The transaction of `take` is still open."""

    @contextmanager
    def _translating(self) -> Iterator[None]:
        errors = self._psycopg.errors
        try:
            yield
        except errors.UndefinedTable:
            raise ConfigurationError(f"{self} does not exist: create it with --create-table") from None
        except errors.InsufficientPrivilege as error:
            raise ConfigurationError(f"{self}: {error.diag.message_primary}") from None
        except self._psycopg.Error as error:
            raise StoreUnavailable(f"{self}: {' '.join(str(error).split())}") from None

"""The store for a database's URL."""

from __future__ import annotations

from flux.core.errors import ConfigurationError
from flux.core.ports.outbox import OutboxStore


def open_store(url: str, table: str = "flux_outbox") -> OutboxStore:
    """`postgresql://USER@HOST:PORT/DATABASE`, or `sqlite:///PATH` (relative; four slashes: absolute); SQLAlchemy's
    `postgresql+psycopg://` is the same. Connects on first use. Raises ConfigurationError, which does not show the URL:
    it may contain a password."""
    scheme, separator, rest = url.partition("://") if isinstance(url, str) else ("", "", "")
    kind, _, _ = scheme.partition("+")
    if separator and kind == "sqlite" and len(rest) > 1:
        from flux.outbox.sqlite import SqliteStore

        return SqliteStore(rest.removeprefix("/"), table)
    if separator and kind in ("postgresql", "postgres"):
        from flux.outbox.postgresql import PostgresStore

        return PostgresStore(f"postgresql://{rest}", table)
    raise ConfigurationError("a database is written postgresql://USER@HOST:PORT/DATABASE or sqlite:///PATH")

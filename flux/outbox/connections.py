"""The user's connection: of SQLAlchemy, psycopg, Django or sqlite3. It is recognized by its class, so none of these
packages is imported here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flux.core.errors import ConfigurationError
from flux.outbox.statements import DIALECTS, Dialect

Texts = Callable[[Sequence[str]], str]
"""Marks of the parameters, in order -> the statement."""

_KNOWN = "a Session or Connection of SQLAlchemy, a Connection of psycopg 3 or sqlite3, or Django's django.db.connection"

_ASYNC = ("AsyncSession", "AsyncConnection", "async_scoped_session")


class Execution(NamedTuple):
    """How to execute a statement: `run` and `dialect` of the database."""

    run: Callable[[Texts, Sequence[object]], Any]
    """Returns the driver's result, which has `rowcount`; awaitable for an async connection."""
    dialect: Dialect
    awaited: bool = False


def execution(connection: Any, what: str) -> Execution:
    """Raises ConfigurationError for something else than a connection, and for one without a transaction: what is
    executed there would be committed at once. `what`: for the message."""
    for kind in type(connection).__mro__:
        made = _KINDS.get(kind.__module__.partition(".")[0])
        if made is not None:
            found = made(connection)
            if found is None:
                raise ConfigurationError(f"{what}: the connection is in autocommit mode: begin a transaction first")
            return found
    raise ConfigurationError(f"{what} takes {_KNOWN}, not {type(connection).__name__}")


def _sqlalchemy(given: Any) -> Execution | None:
    from sqlalchemy import text

    awaited = any(kind.__name__ in _ASYNC for kind in type(given).__mro__)
    if hasattr(given, "get_bind"):
        bind = given.get_bind()
    else:
        bind = given.sync_connection if awaited else given
    if bind.dialect.name not in DIALECTS:
        raise ConfigurationError(f"{bind.dialect.name} is not supported: {' or '.join(DIALECTS)}")
    of_the_engine = getattr(bind.dialect, "_on_connect_isolation_level", None)
    if bind.get_execution_options().get("isolation_level", of_the_engine) == "AUTOCOMMIT":
        return None

    def run(texts: Texts, parameters: Sequence[object]) -> Any:
        names = [f"p{number}" for number in range(len(parameters))]
        statement = text(texts([f":{name}" for name in names]))
        return given.execute(statement, dict(zip(names, parameters, strict=True)))

    return Execution(run, bind.dialect.name, awaited)


def _psycopg(connection: Any) -> Execution | None:
    from psycopg import AsyncConnection
    from psycopg.pq import TransactionStatus

    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        return None
    return Execution(_by_marks(connection.execute, "%s"), "postgresql", isinstance(connection, AsyncConnection))


def _sqlite3(connection: Any) -> Execution | None:
    by_itself = connection.isolation_level is not None and getattr(connection, "autocommit", -1) is not True
    if not by_itself and not connection.in_transaction:
        return None
    return Execution(_by_marks(connection.execute, "?"), "sqlite")


def _django(connection: Any) -> Execution | None:
    if connection.vendor not in DIALECTS:
        raise ConfigurationError(f"{connection.vendor} is not supported: {' or '.join(DIALECTS)}")
    if not connection.in_atomic_block and connection.get_autocommit():
        return None

    def run(statement: str, parameters: Sequence[object]) -> Any:
        cursor = connection.cursor()
        cursor.execute(statement, parameters)
        return cursor

    return Execution(_by_marks(run, "%s"), connection.vendor)


def _by_marks(run: Callable[[str, Sequence[object]], Any], mark: str) -> Callable[[Texts, Sequence[object]], Any]:
    return lambda texts, parameters: run(texts([mark] * len(parameters)), parameters)


_KINDS: dict[str, Callable[[Any], Execution | None]] = {
    "sqlalchemy": _sqlalchemy,
    "psycopg": _psycopg,
    "sqlite3": _sqlite3,
    "django": _django,
}

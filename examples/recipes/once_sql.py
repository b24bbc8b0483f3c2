"""Does work once, in SQLite or PostgreSQL: the record's id is written in the transaction of the work."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from contextvars import ContextVar
from typing import Any

import flux

SCHEMA = """
CREATE TABLE IF NOT EXISTS worked (
    task TEXT NOT NULL,
    id TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (task, id)
)
"""

Begin = Callable[[], AbstractContextManager[Any]]
"""Returns a connection in a transaction. The end of the block commits it, an exception rolls it back."""

_CONNECTION: ContextVar[Any] = ContextVar("connection")


def connection() -> Any:
    """The transaction of the running call."""
    return _CONNECTION.get()


def sqlite(path: str) -> Begin:
    @contextmanager
    def begin() -> Iterator[sqlite3.Connection]:
        # IMMEDIATE: wait for other writers here, not in the middle
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            with db:
                yield db

    return begin


class _Marks:
    """`name`: identifies the task, because two tasks may read one topic. `mark`: how the driver writes a parameter,
    "%s" for psycopg and "?" for sqlite3."""

    def __init__(self, name: str, begin: Begin, mark: str = "%s") -> None:
        self._name = name
        self._begin = begin
        self._insert = f"INSERT INTO worked (task, id) VALUES ({mark}, {mark}) ON CONFLICT DO NOTHING"
        self._delete = f"DELETE FROM worked WHERE task = {mark} AND id = {mark}"

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self._begin() as db:
            token = _CONNECTION.set(db)
            try:
                yield db
            finally:
                _CONNECTION.reset(token)

    def is_new(self, db: Any, message: flux.Message) -> bool:
        # waits while another transaction writes the same id
        return bool(db.execute(self._insert, (self._name, message.id)).rowcount)

    def forget(self, db: Any, message: flux.Message) -> None:
        db.execute(self._delete, (self._name, message.id))


class Once(_Marks):
    """Middleware of a task."""

    def __call__(self, message: flux.Message, call_next: Callable[[flux.Message], Any]) -> None:
        with self.transaction() as db:
            if self.is_new(db, message):
                call_next(message)


class OnceEach(_Marks):
    """Middleware of a BatchTask: one transaction per batch. Records in `flux.BatchFailure` are not marked; the call
    must undo its work for them, by a savepoint for each record."""

    def __call__(self, messages: Sequence[flux.Message], call_next: Callable[[Sequence[flux.Message]], Any]) -> None:
        failed: flux.BatchFailure | None = None
        with self.transaction() as db:
            new = [message for message in messages if self.is_new(db, message)]
            try:
                if new:
                    call_next(new)
            except flux.BatchFailure as error:
                failed = error
                for message in error.failures:
                    self.forget(db, message)
        if failed is not None:
            raise failed

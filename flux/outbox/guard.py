"""`Guard`: does the work of a record once, in one database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import isawaitable
from typing import Any, cast

from flux.core.engine.verdicts import BatchFailure
from flux.core.errors import ConfigurationError
from flux.core.message import Message
from flux.core.outbox.rows import ID_HEADER
from flux.core.validation import check_seconds, is_text, shown
from flux.outbox.connections import execution
from flux.outbox.statements import checked_table, create_guard, forget_guarded


def record_id(message: Message) -> str:
    """What identifies the work: the outbox-id of a record from an outbox, else `message.id`."""
    header = message.headers.get(ID_HEADER)
    return message.id if header is None else header.decode("utf-8", "backslashreplace").replace("\0", "\\0")


class Guard:
    """Middleware of a task, or of a batch task: runs the call in a transaction that also stores the record's id, and
    skips the call for an id that is stored. So the work is done once, however often the record is delivered.

    `name`: identifies the task, since two may read one topic. `begin`: returns a context manager of a transaction: the
    end of its block commits, an exception rolls back, such as `sessionmaker.begin` of SQLAlchemy, `pool.connection` of
    psycopg or `transaction.atomic` of Django; an async one for an async call. `id`: message -> the id of its work.
    Records in `flux.BatchFailure` are not stored; the call must undo its work for them. Raises ConfigurationError."""

    def __init__(
        self,
        name: str,
        begin: Callable[[], Any],
        *,
        table: str = "flux_guard",
        id: Callable[[Message], str] = record_id,
    ) -> None:
        if not is_text(name) or not name:
            raise ConfigurationError(f"a Guard's name must be a text, not {shown(name)}")
        if not callable(begin):
            raise ConfigurationError("Guard(begin=…) takes a function that begins a transaction")
        self._name = name
        self._begin = begin
        self._table = checked_table(table)
        self._id = id
        self._current: ContextVar[Any] = ContextVar("connection")

    @property
    def connection(self) -> Any:
        """What `begin` gave: the session or connection of the running call. Raises LookupError outside a call."""
        return self._current.get()

    def is_new(self, connection: Any, message: Message) -> Any:
        """Stores the record's id in the transaction of `connection`. False if it is stored already; waits while another
        transaction stores it. For work that has its own transaction and no middleware. To be awaited if the connection
        is async."""
        how = execution(connection, "Guard.is_new")
        inserted = how.run(
            lambda marks: f"INSERT INTO {self._table} (name, id) VALUES ({', '.join(marks)}) ON CONFLICT DO NOTHING",
            (self._name, self._id(message)),
        )
        return _inserted_later(inserted) if how.awaited else bool(inserted.rowcount)

    def create_table(self, connection: Any) -> Any:
        """Creates the table if it is missing. To be awaited if the connection is async."""
        how = execution(connection, "Guard.create_table")
        return how.run(lambda marks: create_guard(self._table, how.dialect), ())

    def forget(self, connection: Any, older_than: float) -> Any:
        """Deletes this task's ids that were stored more than so many seconds ago. They must be older than any record
        that can still be delivered. To be awaited if the connection is async."""
        check_seconds("older_than", older_than)
        how = execution(connection, "Guard.forget")
        return how.run(lambda marks: forget_guarded(self._table, how.dialect, *marks), (self._name, older_than))

    def _not_done(self, connection: Any, message: Message) -> Any:
        how = execution(connection, "Guard")
        return how.run(
            lambda marks: "DELETE FROM {} WHERE name = {} AND id = {}".format(self._table, *marks),
            (self._name, self._id(message)),
        )

    # ---- as middleware

    def __call__(self, given: Message | Sequence[Message], call_next: Callable[[Any], Any]) -> Any:
        context = self._begin()
        if hasattr(context, "__aenter__") and not hasattr(context, "__enter__"):
            return self._call_async(context, given, call_next)
        failed: BatchFailure | None = None
        with context as entered, self._entered(context, entered) as connection:
            if isinstance(given, Message):
                if self.is_new(connection, given):
                    _called(call_next, given)
            elif new := [message for message in given if self.is_new(connection, message)]:
                try:
                    _called(call_next, new)
                except BatchFailure as error:
                    failed = error
                    for message in error.failures:
                        self._not_done(connection, message)
        if failed is not None:
            raise failed
        return None

    async def _call_async(
        self, context: Any, given: Message | Sequence[Message], call_next: Callable[[Any], Any]
    ) -> None:
        failed: BatchFailure | None = None
        async with context as entered:
            with self._entered(context, entered) as connection:
                if isinstance(given, Message):
                    if await self.is_new(connection, given):
                        await call_next(given)
                elif new := [message for message in given if await self.is_new(connection, message)]:
                    try:
                        await call_next(new)
                    except BatchFailure as error:
                        failed = error
                        for message in error.failures:
                            await self._not_done(connection, message)
        if failed is not None:
            raise failed

    @contextmanager
    def _entered(self, context: Any, entered: Any) -> Iterator[Any]:
        if entered is None and type(context).__module__.startswith("django."):
            from django.db.transaction import get_connection

            entered = get_connection(context.using)
        token = self._current.set(entered)
        try:
            yield entered
        finally:
            self._current.reset(token)


def _called(call_next: Callable[[Any], Any], given: Any) -> None:
    returned = call_next(given)
    if isawaitable(returned):  # the transaction would be committed before the work is done
        close = getattr(returned, "close", None)
        if close is not None:
            close()
        raise ConfigurationError("the Guard of an async call needs an async transaction")


async def _inserted_later(inserted: Any) -> bool:
    return bool(cast(int, (await inserted).rowcount))

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

import flux
from flux.core.ports import CommittedOffset, TopicPartition
from flux.outbox import Guard, Outbox, Relay
from flux.testing import Kit
from unit.support.outbox_support import Database, Invoices, prepared


class Died(BaseException):
    """Kills the process."""


@pytest.fixture
def guard(database: Database) -> Guard:
    guard = guard_of(database)
    with database.transaction() as db:
        db.execute("DROP TABLE IF EXISTS flux_guard")
        db.execute("DROP TABLE IF EXISTS sums")
        db.execute("CREATE TABLE sums (value TEXT)")
        guard.create_table(db)
        guard.create_table(db)
    return guard


def guard_of(database: Database, name: str = "billing") -> Guard:
    return Guard(name, database.transaction)


def adding(
    guard: Guard, fails: Callable[[flux.Message], bool] = lambda message: False
) -> Callable[[flux.Message], None]:
    def call(message: flux.Message) -> None:
        guard.connection.execute(f"INSERT INTO sums VALUES ('{message.value.decode()} {message.attempt}')")
        if fails(message):
            raise ConnectionError("unavailable")

    return call


def sums(database: Database) -> list[str]:
    return sorted(value for (value,) in database.execute("SELECT value FROM sums"))


def again(kit: Kit) -> None:
    """Delivers all records again."""
    kit.broker().set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(0))


def task_of(guard: Guard, call: Callable[..., Any]) -> flux.Task:
    return flux.task(topic="orders", group_id="billing", wait=10, middleware=[guard])(call)


def test_work_that_is_delivered_again_is_not_done_again(flux_kit: Kit, database: Database, guard: Guard) -> None:
    task = task_of(guard, adding(guard))
    flux_kit.produce("orders", "one")
    flux_kit.run(task)
    again(flux_kit)
    flux_kit.produce("orders", "two")
    assert flux_kit.run(task).done == 2
    assert sums(database) == ["one 1", "two 1"]


def test_a_failure_rolls_back_the_id_with_the_work(flux_kit: Kit, database: Database, guard: Guard) -> None:
    flux_kit.produce("orders", "one")
    flux_kit.run_to_the_end(task_of(guard, adding(guard, lambda message: message.attempt < 3)))
    assert sums(database) == ["one 3"]


def test_a_process_that_dies_before_the_commit_leaves_neither(flux_kit: Kit, database: Database, guard: Guard) -> None:
    lives = False

    def call(message: flux.Message) -> None:
        adding(guard)(message)
        if not lives:
            raise Died

    flux_kit.produce("orders", "one")
    task = task_of(guard, call)
    with pytest.raises(Died):
        flux_kit.run(task)
    assert database.execute("SELECT * FROM flux_guard") == []
    lives = True
    flux_kit.run(task)
    assert sums(database) == ["one 1"]


def test_what_an_outbox_sends_twice_is_one_work(flux_kit: Kit, database: Database, guard: Guard) -> None:
    prepared(database.url)
    with database.transaction() as db:
        Outbox.produce(db, Invoices, "one")
    [row] = database.execute("SELECT topic, key, value, headers, timestamp_ms, key_hash, lane FROM flux_outbox")
    assert Relay(database.store()).run_once() == 1
    mark = "?" if database.url.startswith("sqlite") else "%s"
    with database.transaction() as db:  # as if the relay had died before it deleted the row
        marks = ", ".join([mark] * len(row))
        db.execute(
            f"INSERT INTO flux_outbox (topic, key, value, headers, timestamp_ms, key_hash, lane) VALUES ({marks})", row
        )
    assert Relay(database.store()).run_once() == 1
    done = flux_kit.run(flux.task(topic="invoices", group_id="billing", middleware=[guard])(adding(guard)))
    assert done.done == 2
    assert sums(database) == ["one 1"]


def test_two_tasks_of_one_topic_each_do_the_work(flux_kit: Kit, database: Database, guard: Guard) -> None:
    other = guard_of(database, "audit")
    flux_kit.produce("orders", "one")
    audit = flux.task(topic="orders", group_id="audit", middleware=[other])(adding(other))
    flux_kit.run(task_of(guard, adding(guard)), audit)
    assert sums(database) == ["one 1", "one 1"]


def test_the_id_may_be_the_users_own(flux_kit: Kit, database: Database, guard: Guard) -> None:
    own = Guard("billing", database.transaction, id=lambda message: message.value.decode())
    for _ in range(2):
        flux_kit.produce("orders", "one")
    assert flux_kit.run(task_of(own, adding(own))).done == 2
    assert sums(database) == ["one 1"]


def test_a_batch_is_one_transaction_and_what_failed_in_it_is_not_stored(
    flux_kit: Kit, database: Database, guard: Guard
) -> None:
    batches: list[list[Any]] = []

    class Load(flux.BatchTask):
        topic, group_id = "orders", "billing"
        wait = 10
        middleware = (guard,)

        def call(self, messages: Sequence[flux.Message]) -> None:
            batches.append([message.value for message in messages])
            bad = [message for message in messages if message.value == b"bad" and message.attempt == 1]
            for message in messages:
                if message not in bad:
                    adding(guard)(message)
            if bad:
                raise flux.BatchFailure(dict.fromkeys(bad, ValueError("bad")))

    for value in ("a", "bad", "c"):
        flux_kit.produce("orders", value)
    flux_kit.run_to_the_end(Load)
    again(flux_kit)
    flux_kit.run_to_the_end(Load)
    assert batches == [[b"a", b"bad", b"c"], [b"bad"]]
    assert sums(database) == ["a 1", "bad 2", "c 1"]


def test_old_ids_are_deleted_for_one_task(flux_kit: Kit, database: Database, guard: Guard) -> None:
    for name in ("billing", "audit"):
        database.execute(f"INSERT INTO flux_guard (name, id, created_at) VALUES ('{name}', '1', '2020-01-01 00:00:00')")
        database.execute(f"INSERT INTO flux_guard (name, id) VALUES ('{name}', '2')")
    with database.transaction() as db:
        guard.forget(db, 86_400)
    assert sorted(database.execute("SELECT name, id FROM flux_guard")) == [
        ("audit", "1"),
        ("audit", "2"),
        ("billing", "2"),
    ]


def test_a_session_of_sqlalchemy_is_the_connection_of_the_call(flux_kit: Kit, database: Database, guard: Guard) -> None:
    engine = sqlalchemy.create_engine(database.url.replace("postgresql:", "postgresql+psycopg:"))
    own = Guard("billing", sessionmaker(engine).begin)

    def call(message: flux.Message) -> None:
        assert isinstance(own.connection, Session)
        own.connection.execute(text("INSERT INTO sums VALUES (:value)"), {"value": message.value.decode()})

    flux_kit.produce("orders", "one")
    for _ in range(2):
        flux_kit.run(task_of(own, call))
        again(flux_kit)
    engine.dispose()
    assert sums(database) == ["one"]


def test_an_async_call_has_an_async_transaction(flux_kit: Kit, postgresql: Database) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

    engine = create_async_engine(
        postgresql.url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sqlalchemy.NullPool
    )
    guard = Guard("billing", async_sessionmaker(engine).begin)
    postgresql.execute("DROP TABLE IF EXISTS flux_guard")

    async def create() -> None:
        async with engine.begin() as connection:
            await guard.create_table(connection)

    calls: list[bytes] = []

    async def call(message: flux.Message) -> None:
        assert isinstance(guard.connection, AsyncSession)
        await Outbox.aproduce(guard.connection, Invoices, message.value)
        calls.append(message.value)
        if message.attempt == 1:
            raise ConnectionError

    asyncio.run(create())
    flux_kit.produce("orders", "one")
    for _ in range(2):
        flux_kit.run_to_the_end(task_of(guard, call))
        again(flux_kit)
    assert calls == [b"one", b"one"]
    assert len(postgresql.ids()) == 1


def test_an_async_call_in_a_transaction_that_blocks_does_not_count_as_done(
    flux_kit: Kit, database: Database, guard: Guard
) -> None:
    async def call(message: flux.Message) -> None:
        pass

    flux_kit.produce("orders", "one")
    assert flux_kit.run(task_of(guard, call)).failed == 1
    assert "needs an async transaction" in str(flux_kit.failures[0].error)
    assert database.execute("SELECT * FROM flux_guard") == []


def test_without_middleware_the_users_own_transaction_is_used(flux_kit: Kit, database: Database, guard: Guard) -> None:
    found: list[bool] = []

    def call(message: flux.Message) -> None:
        with database.transaction() as db:
            found.append(guard.is_new(db, message))

    flux_kit.produce("orders", "one")
    for _ in range(2):
        flux_kit.run(flux.task(topic="orders", group_id="billing")(call))
        again(flux_kit)
    assert found == [True, False]


@contextmanager
def nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize("name", ["", None, 1])
def test_a_guard_has_a_name_and_begins_transactions(name: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match="a Guard's name must be a text"):
        Guard(name, nothing)
    with pytest.raises(flux.ConfigurationError, match="takes a function that begins a transaction"):
        Guard("billing", "sqlite:///x.db")  # type: ignore[arg-type]
    with pytest.raises(flux.ConfigurationError, match="is no table's name"):
        Guard("billing", nothing, table="a b")


def test_outside_a_call_there_is_no_connection() -> None:
    with pytest.raises(LookupError):
        _ = Guard("billing", nothing).connection


def test_two_calls_at_once_do_the_work_once(postgresql: Database) -> None:
    """The second waits for the first one's commit."""
    guard = guard_of(postgresql)
    postgresql.execute("DROP TABLE IF EXISTS flux_guard")
    with postgresql.transaction() as db:
        guard.create_table(db)
    with psycopg.connect(postgresql.url) as first, psycopg.connect(postgresql.url) as second:
        insert = "INSERT INTO flux_guard (name, id) VALUES ('billing', 'x') ON CONFLICT DO NOTHING"
        assert first.execute(insert).rowcount == 1
        second.execute("SET lock_timeout = 50")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            second.execute(insert)
        first.commit()
        second.rollback()
        assert second.execute(insert).rowcount == 0

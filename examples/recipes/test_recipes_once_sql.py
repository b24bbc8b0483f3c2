from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
from once_sql import SCHEMA, Begin, Once, OnceEach, connection, sqlite

import flux
from flux.core.ports import CommittedOffset, TopicPartition
from flux.testing import Kit

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

from postgres import NoPostgres, postgres

TABLES = "DROP TABLE IF EXISTS worked; DROP TABLE IF EXISTS sums; CREATE TABLE sums (value TEXT);"


class Died(BaseException):
    """Kills the process."""


@attrs.frozen
class Database:
    begin: Begin
    mark: str

    def add(self, value: Any) -> None:
        """Does the work in the transaction of the call."""
        connection().execute(f"INSERT INTO sums VALUES ({self.mark})", (str(value),))

    def sums(self) -> list[str]:
        with self.begin() as db:
            return sorted(value for (value,) in db.execute("SELECT value FROM sums").fetchall())

    def marked(self) -> list[str]:
        with self.begin() as db:
            return sorted(id for (id,) in db.execute("SELECT id FROM worked").fetchall())

    def task(self, call: Callable[[flux.Message], Any], **settings: Any) -> flux.Task:
        options = {"wait": 10, "middleware": [Once("billing", self.begin, self.mark)], **settings}
        return flux.task(topic="orders", group_id="billing", **options)(call)


@pytest.fixture(scope="module")
def server() -> Iterator[str | None]:
    try:
        with postgres() as url:
            yield url
    except NoPostgres:
        yield None


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        path = str(tmp_path / "orders.db")
        with closing(sqlite3.connect(path)) as db:
            db.executescript(TABLES + SCHEMA)
        return Database(sqlite(path), "?")
    url = request.getfixturevalue("server")
    if url is None:
        pytest.skip("PostgreSQL's server is not on this machine")
    with psycopg.connect(url) as db:
        db.execute(TABLES.encode() + SCHEMA.encode())
    return Database(lambda: psycopg.connect(url), "%s")


def again(kit: Kit) -> None:
    """Delivers all records again."""
    kit.broker().set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(0))


def test_work_that_is_delivered_again_is_not_done_again(flux_kit: Kit, database: Database) -> None:
    task = database.task(lambda message: database.add(message.value))
    flux_kit.produce("orders", "one")
    flux_kit.produce("orders", "two")
    flux_kit.run(task)
    again(flux_kit)
    assert flux_kit.run(task).done == 2
    assert database.sums() == ["b'one'", "b'two'"]


def test_a_failure_takes_its_mark_back_with_its_work(flux_kit: Kit, database: Database) -> None:
    def call(message: flux.Message) -> None:
        database.add(message.attempt)
        if message.attempt < 3:
            raise ConnectionError("away")

    flux_kit.produce("orders", "one")
    assert flux_kit.run_to_the_end(database.task(call)).done == 1
    assert database.sums() == ["3"]
    assert database.marked() == ["orders/0/0"]


def test_a_process_that_dies_between_the_work_and_its_commit_leaves_neither(flux_kit: Kit, database: Database) -> None:
    lives = False

    def call(message: flux.Message) -> None:
        database.add(message.value)
        if not lives:
            raise Died

    task = database.task(call)
    flux_kit.produce("orders", "one")
    with pytest.raises(Died):
        flux_kit.run(task)
    assert (database.sums(), database.marked()) == ([], [])
    lives = True
    flux_kit.run(task)
    assert database.sums() == ["b'one'"]


def test_two_tasks_of_one_topic_each_do_the_work(flux_kit: Kit, database: Database) -> None:
    one = database.task(lambda message: database.add("billing"))
    other = flux.task(topic="orders", group_id="audit", middleware=[Once("audit", database.begin, database.mark)])(
        lambda message: database.add("audit")
    )
    flux_kit.produce("orders", "one")
    flux_kit.run(one, other)
    assert database.sums() == ["audit", "billing"]


def test_what_was_not_delivered_is_not_marked_if_the_call_waits_for_it(flux_kit: Kit, database: Database) -> None:
    class Receipts(flux.Producer):
        topic = "receipts"

    def call(message: flux.Message) -> None:
        database.add(message.attempt)
        Receipts.send("x" * size).result(30)

    flux_kit.broker().create_topic("receipts", 1, {"max.message.bytes": "1000"})
    flux_kit.produce("orders", "one")
    size, task = 5000, database.task(call)
    flux_kit.run(task)
    assert (database.sums(), database.marked()) == ([], [])
    size = 10
    flux_kit.run_to_the_end(task)
    assert database.sums() == ["2"]
    assert len(flux_kit.topic("receipts")) == 1


def test_a_batch_is_one_transaction_and_what_failed_in_it_is_not_marked(flux_kit: Kit, database: Database) -> None:
    batches: list[list[Any]] = []

    class Load(flux.BatchTask):
        topic, group_id = "orders", "billing"
        wait = 10
        middleware = (OnceEach("billing", database.begin, database.mark),)

        def call(self, messages: Sequence[flux.Message]) -> None:
            batches.append([message.value for message in messages])
            good = [message for message in messages if message.value != b"bad" or message.attempt > 1]
            for message in good:
                database.add(message.value)
            if good != list(messages):
                raise flux.BatchFailure({message: ValueError("bad") for message in messages if message not in good})

    for value in ("a", "bad", "c"):
        flux_kit.produce("orders", value)
    flux_kit.run_to_the_end(Load)
    assert batches == [[b"a", b"bad", b"c"], [b"bad"]]
    again(flux_kit)
    flux_kit.run_to_the_end(Load)
    assert len(batches) == 2
    assert database.sums() == ["b'a'", "b'bad'", "b'c'"]
    assert len(database.marked()) == 3

"""The recipes for doing work once, when processes die."""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from flux.outbox import Guard
from integration.job.support import Lab, wait_for

sys.path.append(str(Path(__file__).parents[3] / "examples" / "recipes"))

from redis_server import redis_or_skipped

RECIPES = sys.path[-1]
STATIC = "?group.instance.id=one"
"""So that one who died gets its partitions back at once."""
HEAD = """
import os, sys, time
from pathlib import Path
import flux

sys.path.append(RECIPES)

def note(message):
    with open(CALLS, "a") as calls:
        calls.write(message.value.decode() + "\\n")

def die_once():
    if not Path(DIED).exists():
        Path(DIED).touch()
        os._exit(9)

class Task(flux.Task):
    topic, group_id = TOPIC, GROUP
    retries, wait, offset_commit_interval = 2, 0.2, 60
"""
SQL = (
    HEAD
    + """
from sqlalchemy import create_engine, text
from flux.outbox import Guard

once = Guard("billing", create_engine("sqlite:///" + DATABASE).begin)

class Billing(Task):
    middleware = [once]

    def call(self, message):
        note(message)
        time.sleep(0.005)
        once.connection.execute(text("INSERT INTO sums VALUES (:value)"), {"value": message.value})
        if message.value == b"40":
            die_once()
        if message.value.endswith(b"7") and message.attempt == 1:
            raise ValueError("wrong")
"""
)
REDIS = (
    HEAD
    + """
import redis
from once_redis import Once

class Billing(Task):
    concurrency = 4
    middleware = [Once("billing", redis.Redis.from_url(URL), lease=2)]

    def call(self, message):
        note(message)
        time.sleep(0.005)
        if message.value == b"40":
            die_once()
"""
)
VALUES = [b"%d" % n for n in range(100)]


def done(database: Path, value: bytes) -> bool:
    with closing(sqlite3.connect(database, timeout=30)) as db:
        return bool(db.execute("SELECT count(*) FROM sums WHERE value = ?", (value,)).fetchone()[0])


def test_in_one_transaction_work_is_done_once_whenever_the_process_dies(lab: Lab) -> None:
    database, calls, died = (lab.directory / name for name in ("orders.db", "calls", "died"))
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE sums (value BLOB)")
        Guard("billing", lambda: db).create_table(db)
    task = lab.task(lambda message: None, partitions=2, retries=2)
    lab.write(task.topic, *((value, value) for value in VALUES))
    path = lab.load(
        SQL,
        TOPIC=task.topic,
        GROUP=task.group_id,
        RECIPES=RECIPES,
        DATABASE=str(database),
        CALLS=str(calls),
        DIED=str(died),
    )
    assert lab.process(path, "Billing", query=STATIC).wait(60) == 9  # between the work and its commit
    process = lab.process(path, "Billing", query=STATIC)
    wait_for(lambda: done(database, b"40"), "it goes on")  # how many others are left depends on when the first died
    process.kill()  # between a commit of the database and one of Kafka's
    process.wait(60)
    with closing(sqlite3.connect(database)) as db:
        [(half,)] = db.execute("SELECT count(*) FROM flux_guard")
    assert half > 0
    assert lab.process(path, "Billing", "--exit-when-idle", "0.5", query=STATIC).wait(40) == 0
    with closing(sqlite3.connect(database)) as db:
        assert Counter(value for (value,) in db.execute("SELECT value FROM sums")) == Counter(VALUES)
        [(marks,)] = db.execute("SELECT count(*) FROM flux_guard")
    assert marks == len(VALUES)
    assert Counter(calls.read_text().splitlines())["40"] == 2
    assert lab.dead(task) == []


@pytest.fixture
def server() -> Iterator[str]:
    with redis_or_skipped() as url:
        yield url


def test_with_redis_what_is_known_to_be_done_is_not_done_again_and_nothing_is_left_out(lab: Lab, server: str) -> None:
    calls, died = (lab.directory / name for name in ("calls", "died"))
    task = lab.task(lambda message: None, partitions=2, retries=2)
    lab.write(task.topic, *((value, value, None, int(value) % 2) for value in VALUES))
    path = lab.load(
        REDIS,
        TOPIC=task.topic,
        GROUP=task.group_id,
        RECIPES=RECIPES,
        URL=server,
        CALLS=str(calls),
        DIED=str(died),
    )
    assert lab.process(path, "Billing", query=STATIC).wait(60) == 9
    with redis.Redis.from_url(server) as client:
        known = {key.decode() for key in client.scan_iter("worked:*") if client.get(key) == b"done"}
    assert 0 < len(known) < len(VALUES)
    assert lab.process(path, "Billing", "--exit-when-idle", "0.5", query=STATIC).wait(40) == 0
    found = Counter(calls.read_text().split())
    assert {value.encode() for value in found} == set(VALUES)
    done = {f"worked:billing:{task.topic}/{int(value) % 2}/{int(value) // 2}": value for value in found}
    assert all(found[done[key]] == 1 for key in known)
    assert found["40"] == 2
    assert lab.dead(task) == []

"""The outbox on a real Kafka and real databases: relays that are killed lose nothing and keep the order of each key."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from unit.support.outbox_support import Database, postgres_or_skipped, prepared

import flux
from flux.outbox import Outbox

KEYS = 7
ROUNDS = 150
WRITERS = 3
SECONDS = 60.0


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        yield prepared(f"sqlite:///{tmp_path / 'shop.db'}")
    else:
        with postgres_or_skipped() as url:
            yield prepared(url)


class Relays:
    """Processes of `flux relay`."""

    def __init__(self, database: Database, bootstrap: str, log: Path) -> None:
        self._environment = {**os.environ, "FLUX_DATABASE": database.url, "FLUX_ADAPTER": f"confluent://{bootstrap}"}
        self._log = log
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Returns when it works, which a signal then ends well."""
        before = self._starts()
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "flux.cli.main", "relay", "--interval", "0.05"]
            self.running.append(subprocess.Popen(command, env=self._environment, stdout=log, stderr=log))
        until = time.monotonic() + SECONDS
        while self._starts() == before:
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.02)

    def _starts(self) -> int:
        return self._log.read_text().count("the relay moves rows of") if self._log.exists() else 0

    def kill_one(self) -> None:
        process = self.running.pop(random.randrange(len(self.running)))
        process.kill()
        process.wait(60)

    def stop(self) -> list[int]:
        for process in self.running:
            process.terminate()
        return [process.wait(60) for process in self.running]


@pytest.fixture
def relays(database: Database, bootstrap: str, tmp_path: Path) -> Iterator[Relays]:
    found = Relays(database, bootstrap, tmp_path / "relays.log")
    yield found
    for process in found.running:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(60)


def write(database: Database, producer: type[flux.Producer], writer: int) -> None:
    """Transactions of some rows; a third is rolled back. Keys belong to one writer, so their order is known."""
    for round in range(ROUNDS):
        with suppress(ZeroDivisionError), database.transaction() as db:
            for key in range(KEYS):
                Outbox.produce(db, producer, f"{round}", key=f"{writer}-{key}")
            if round % 3 == 2:
                raise ZeroDivisionError
        time.sleep(0.02)


def test_relays_that_are_killed_lose_nothing_and_keep_the_order_of_each_key(
    database: Database,
    relays: Relays,
    make_topic: Callable[..., str],
    read_all: Callable[..., list[Any]],
) -> None:
    class Orders(flux.Producer):
        topic = make_topic(3)

    for _ in range(3):
        relays.start()
    writers = [threading.Thread(target=write, args=(database, Orders, number)) for number in range(WRITERS)]
    for thread in writers:
        thread.start()
    while any(thread.is_alive() for thread in writers):
        time.sleep(0.2)
        relays.kill_one()
        relays.start()
    until = time.monotonic() + SECONDS
    while database.ids():
        assert time.monotonic() < until, database.execute("SELECT id, error FROM flux_outbox LIMIT 5")
        time.sleep(0.1)
    assert relays.stop() == [0, 0, 0]
    first: dict[bytes, list[int]] = {}
    seen: set[bytes] = set()
    for record in read_all(Orders.topic):
        id = dict(record.headers())["outbox-id"]
        if id not in seen:
            seen.add(id)
            first.setdefault(record.key(), []).append(int(record.value()))
    committed = [round for round in range(ROUNDS) if round % 3 != 2]
    assert first == {b"%d-%d" % (writer, key): committed for writer in range(WRITERS) for key in range(KEYS)}

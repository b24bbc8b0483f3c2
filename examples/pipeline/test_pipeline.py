from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pipeline
import psycopg
import pytest
from pipeline import LoadReadings
from postgres import postgres_or_skipped

from flux.testing import Kit

SCHEMA = (Path(__file__).parent / "schema.sql").read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_or_skipped() as url:
        yield url


@pytest.fixture
def database(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection[Any]]:
    monkeypatch.setattr(pipeline, "DATABASE", server)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS readings")
        connection.execute(SCHEMA)
        yield connection


def measure(kit: Kit, celsius: object, sensor: object = "roof") -> None:
    kit.produce("readings", json={"sensor": sensor, "taken_at": "2026-11-24T12:00:00+00:00", "celsius": celsius})


def loaded(database: psycopg.Connection[Any]) -> list[float]:
    return [celsius for (celsius,) in database.execute("SELECT celsius FROM readings ORDER BY celsius")]


def test_a_batch_is_one_transaction(flux_kit: Kit, database: psycopg.Connection[Any]) -> None:
    for celsius in range(100):
        measure(flux_kit, celsius)
    assert flux_kit.run(LoadReadings).failed == 0
    assert loaded(database) == list(range(100))
    assert database.execute("SELECT count(DISTINCT xmin::text) FROM readings").fetchone() == (1,)


def test_more_than_a_batch_takes_is_several(flux_kit: Kit, database: psycopg.Connection[Any]) -> None:
    for celsius in range(1200):
        measure(flux_kit, celsius)
    flux_kit.run(LoadReadings)
    assert len(loaded(database)) == 1200
    assert database.execute("SELECT count(DISTINCT xmin::text) FROM readings").fetchone() == (3,)


def test_what_is_no_reading_becomes_a_dead_letter_alone(flux_kit: Kit, database: psycopg.Connection[Any]) -> None:
    measure(flux_kit, 1)
    flux_kit.produce("readings", json={"sensor": "roof"})
    flux_kit.produce("readings", "{broken")
    flux_kit.produce("readings", json=[])
    measure(flux_kit, 2)
    flux_kit.run(LoadReadings)
    assert loaded(database) == [1, 2]
    assert [letter.offset for letter in flux_kit.dead_letters(LoadReadings)] == [0, 1, 2]
    assert {letter.reason for letter in flux_kit.dead_letters(LoadReadings)} == {"rejected", "undecodable"}


def test_what_the_database_refuses_is_found_and_the_rest_is_loaded(
    flux_kit: Kit, database: psycopg.Connection[Any]
) -> None:
    measure(flux_kit, 1)
    measure(flux_kit, -300)  # below absolute zero
    measure(flux_kit, 2)
    measure(flux_kit, 3, sensor="a\0b")  # not a text for PostgreSQL
    flux_kit.run_to_the_end(LoadReadings)
    assert loaded(database) == [1, 2]
    letters = flux_kit.dead_letters(LoadReadings)
    assert sorted(str(letter.error_type) for letter in letters) == [
        "psycopg.DataError",
        "psycopg.errors.CheckViolation",
    ]


def test_a_batch_that_is_delivered_again_is_loaded_once(flux_kit: Kit, database: psycopg.Connection[Any]) -> None:
    class DiesAfterTheCommit(LoadReadings):
        def call(self, messages: Any) -> None:
            super().call(messages)
            raise MemoryError

    for celsius in range(10):
        measure(flux_kit, celsius)
    with pytest.raises(MemoryError):
        flux_kit.run(DiesAfterTheCommit)
    assert len(loaded(database)) == 10
    assert flux_kit.run(LoadReadings).done == 10
    assert loaded(database) == list(range(10))


def test_a_database_that_is_away_moves_no_reading(
    flux_kit: Kit, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [psycopg.OperationalError("away"), psycopg.OperationalError("away")]
    connect = psycopg.connect

    def flaky(*args: Any) -> Any:
        if answers:
            raise answers.pop()
        return connect(*args)

    measure(flux_kit, 1)
    monkeypatch.setattr(psycopg, "connect", flaky)
    flux_kit.run_to_the_end(LoadReadings)
    assert loaded(database) == [1]
    assert len(flux_kit.topic("readings-warehouse-try-1")) == 0

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.support.outbox_support import Database, postgres_or_skipped, prepared


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgres_or_skipped() as url:
        yield url


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    return prepared(f"sqlite:///{tmp_path / 'orders.db'}")


@pytest.fixture
def postgresql(postgres_url: str) -> Database:
    return prepared(postgres_url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(request.param)
    return found

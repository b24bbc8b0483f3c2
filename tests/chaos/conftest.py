"""The short form of chaos: a cluster of three brokers, as long as these tests run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from brokers.base import NoBroker
from brokers.jars import libraries

from chaos.cluster import Cluster, running

_reason = pytest.StashKey[str]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetches Kafka the first time. Here and not in a fixture, as a test's time limit counts its fixtures."""
    if session.config.option.collectonly or not any(item.get_closest_marker("chaos") for item in session.items):
        return
    try:
        libraries()
    except NoBroker as reason:
        session.config.stash[_reason] = str(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reason = config.stash.get(_reason, None)
    if reason is not None:
        terminalreporter.write_line(f"NO CHAOS: {reason}", red=True, bold=True)


@pytest.fixture(scope="package")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    reason = pytestconfig.stash.get(_reason, None)
    if reason is None:
        try:
            with running() as cluster:
                yield cluster
            return
        except NoBroker as missing:
            reason = pytestconfig.stash[_reason] = str(missing)
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"NO CHAOS: {reason}", pytrace=False)
    pytest.skip(f"NO CHAOS: {reason}")

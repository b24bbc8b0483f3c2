"""flux's fixtures for pytest: see docs/how-to/testing.md.

A module beside the package, as pytest loads it at its start in every environment that has flux: so it imports nothing
of flux before a fixture is used, which keeps that start quick and coverage whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flux.testing import Kit

__all__ = ["flux_kafka", "flux_kit", "flux_kit_options"]


@pytest.fixture
def flux_kit_options() -> Mapping[str, Any]:
    """What `flux_kit` is made with: arguments of `flux.testing.kit`. Override it to change them."""
    return {}


@pytest.fixture
def flux_kit(flux_kit_options: Mapping[str, Any]) -> Iterator[Kit]:
    """The application without Kafka: its tasks and producers work on a broker in memory, new for each test."""
    from flux.testing import kit

    with kit(**flux_kit_options) as made:
        yield made


@pytest.fixture(scope="session")
def flux_kafka() -> Iterator[str]:
    """Where a real Kafka is, "host:port": the one that FLUX_TEST_BOOTSTRAP names, else a container of the image that
    FLUX_TEST_KAFKA_IMAGE names, which lives as long as the session. Without either the tests are skipped, and fail with
    CI=true."""
    given = os.environ.get("FLUX_TEST_BOOTSTRAP")
    if given:
        yield given
        return
    from flux.testing.kafka import NoBroker, container

    try:
        started = container(auto_create=True)
        broker = started.__enter__()
    except NoBroker as reason:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"no Kafka for flux_kafka: {reason}", pytrace=False)
        pytest.skip(f"no Kafka for flux_kafka: {reason}")
    try:
        yield broker.bootstrap
    finally:
        started.__exit__(None, None, None)

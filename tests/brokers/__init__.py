"""A real Apache Kafka for the tests, by the first way that works here.

1. `FLUX_TEST_BOOTSTRAP` ("host:port"): a broker that runs already. Nothing is assumed of it but an open listener.
2. A container, where a Docker engine answers: image `FLUX_TEST_KAFKA_IMAGE`, by default apache/kafka:4.3.0.
3. Kafka's jars from Maven, started by the test session itself: Java 17 or later, and Maven the first time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from brokers.base import KafkaNode, NoBroker
from brokers.jars import jars
from flux.testing.container import container

__all__ = ["KafkaNode", "NoBroker", "running"]


@contextmanager
def running() -> Iterator[KafkaNode]:
    """Raises NoBroker, which says what is missing for each way."""
    given = os.environ.get("FLUX_TEST_BOOTSTRAP")
    if given:
        yield KafkaNode(given)
        return
    missing: list[NoBroker] = []
    for way in (container, jars):
        try:
            manager = way()
            broker = manager.__enter__()
        except NoBroker as reason:
            missing.append(reason)
            continue
        try:
            surprises = [str(reason) for reason in missing if reason.surprising]
            yield attrs.evolve(broker, source=" - WARNING: ".join([broker.source, *surprises]))
        finally:
            manager.__exit__(None, None, None)
        return
    raise NoBroker("no Apache Kafka for the tests: set FLUX_TEST_BOOTSTRAP, or: " + "; ".join(map(str, missing)))

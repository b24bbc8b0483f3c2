"""A real Apache Kafka for the tests, by the first way that works here.

1. `FLUX_TEST_BOOTSTRAP` ("host:port"): a broker that runs already. Nothing is assumed of it but an open listener.
2. A container, where a Docker engine answers: image `FLUX_TEST_KAFKA_IMAGE`, by default apache/kafka:4.3.0.
3. Kafka's jars from Maven, started by the test session itself: Java 17 or later, and Maven the first time.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from brokers.base import Broker, NoBroker
from brokers.container import container
from brokers.jars import jars

__all__ = ["Broker", "NoBroker", "running"]


@contextmanager
def running() -> Iterator[Broker]:
    """Raises NoBroker, which says what is missing for each way."""
    given = os.environ.get("FLUX_TEST_BOOTSTRAP")
    if given:
        yield Broker(given)
        return
    missing = []
    for way in (container, jars):
        try:
            manager = way()
            broker = manager.__enter__()
        except NoBroker as reason:
            missing.append(str(reason))
            if reason.surprising:
                warnings.warn(str(reason), stacklevel=2)
            continue
        try:
            yield broker
        finally:
            manager.__exit__(None, None, None)
        return
    raise NoBroker("no Apache Kafka for the tests: set FLUX_TEST_BOOTSTRAP, or: " + "; ".join(missing))

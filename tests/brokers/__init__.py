"""A real Apache Kafka for the tests, by the first way that works here.

1. `FLUX_TEST_BOOTSTRAP` ("host:port"): a broker that runs already. Nothing is assumed of it but an open listener.
2. A container, where a Docker engine answers: image `FLUX_TEST_KAFKA_IMAGE`, by default apache/kafka:4.3.0.
3. Kafka's jars from Maven, started by the test session itself: Java 17 or later, and Maven the first time. Their
   version: `FLUX_TEST_KAFKA_VERSION`, by default 4.3.0.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from brokers.base import KafkaNode, NoBroker, once
from brokers.jars import jars
from flux.testing.kafka import container

__all__ = ["KafkaNode", "NoBroker", "running", "shared"]

_PATIENCE = 900.0  # seconds: the first start fetches Kafka


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


@contextmanager
def shared(run: str) -> Iterator[KafkaNode]:
    """The one broker of all processes that name this test run. The first one starts it, and stops it when no other uses
    it any more. Raises NoBroker as `running` does."""
    directory = Path(tempfile.gettempdir()) / f"flux-broker-{run}"
    directory.mkdir(exist_ok=True)
    told = directory / "node.json"
    with ExitStack() as stack, (directory / "users").open("a") as users:
        with once(directory / "lock", _PATIENCE):
            starts = not told.exists()
            if starts:
                node = stack.enter_context(running())
                told.write_text(json.dumps(attrs.asdict(node)))
            else:
                node = KafkaNode(**json.loads(told.read_text()))
            fcntl.flock(users, fcntl.LOCK_SH)
        yield node
        fcntl.flock(users, fcntl.LOCK_UN)
        if starts:
            fcntl.flock(users, fcntl.LOCK_EX)  # waits for the others, however they end
            shutil.rmtree(directory, ignore_errors=True)

"""Everything under here runs against a real Apache Kafka; `brokers` says where it comes from."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from brokers import KafkaNode, NoBroker, running, shared
from brokers.operator import Operator
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from proof.history.kafka import read_topic

_HERE = Path(__file__).parent
_broker = pytest.StashKey[KafkaNode | NoBroker]()
_stop = pytest.StashKey[contextlib.ExitStack]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("kafka")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Here and not in a fixture: the first start fetches Kafka, and a test's time limit counts its fixtures."""
    if session.config.option.collectonly or not any(_HERE in item.path.parents for item in session.items):
        return
    stack = contextlib.ExitStack()
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    try:
        session.config.stash[_broker] = stack.enter_context(shared(run) if run else running())
    except NoBroker as reason:
        session.config.stash[_broker] = reason
    session.config.stash[_stop] = stack


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_broker, None)
    if isinstance(found, KafkaNode):
        terminalreporter.write_line(f"Kafka: {found.source}")


def pytest_unconfigure(config: pytest.Config) -> None:
    if _stop in config.stash:
        config.stash[_stop].close()


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> KafkaNode:
    found = pytestconfig.stash[_broker]
    if isinstance(found, KafkaNode):
        return found
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"NOTHING TESTED AGAINST KAFKA: {found}", pytrace=False)
    pytest.skip(f"NOTHING TESTED AGAINST KAFKA: {found}")


@pytest.fixture(scope="session")
def bootstrap(broker: KafkaNode) -> str:
    return broker.bootstrap


@pytest.fixture(scope="session")
def secured(broker: KafkaNode) -> str:
    """The bootstrap of a listener that wants a login of `brokers.base.USERS`."""
    if broker.secured is None:
        pytest.skip("the broker of FLUX_TEST_BOOTSTRAP has no listener with known logins")
    return broker.secured


@pytest.fixture(scope="session")
def kafka_admin(bootstrap: str) -> AdminClient:
    """confluent-kafka's own, for what a test does beside the code that it tests."""
    return AdminClient({"bootstrap.servers": bootstrap})


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Makes names for topics and groups that no other test and no other run has."""
    return lambda: f"t{secrets.token_hex(4)}-{request.node.originalname[:60].replace('_', '-')}"


@pytest.fixture
def make_topic(kafka_admin: AdminClient, unique: Callable[[], str]) -> Iterator[Callable[..., str]]:
    """`make_topic(partitions=1, name=None, **config)`: a new topic's name; config as max_message_bytes=1000."""
    made: list[str] = []

    def make(partitions: int = 1, name: str | None = None, **config: object) -> str:
        name = name or unique()
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        kafka_admin.create_topics([NewTopic(name, partitions, 1, config=settings)])[name].result(30)
        made.append(name)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            found = kafka_admin.list_topics(timeout=10).topics.get(name)
            if found and len(found.partitions) == partitions and all(p.leader >= 0 for p in found.partitions.values()):
                return name
            time.sleep(0.05)
        pytest.fail(f"the broker did not make topic {name} in 30 s")

    yield make
    if made:
        for deleted in kafka_admin.delete_topics(made).values():
            with contextlib.suppress(Exception):  # a test may have deleted it itself
                deleted.result(30)


@pytest.fixture
def topic(make_topic: Callable[..., str]) -> str:
    """A topic with one partition."""
    return make_topic()


@pytest.fixture
def group(unique: Callable[[], str]) -> str:
    return unique()


@pytest.fixture(scope="session")
def operator(bootstrap: str) -> Operator:
    return Operator(bootstrap)


@pytest.fixture(scope="session")
def transact(operator: Operator) -> Callable[[str, Sequence[bytes], bool], None]:
    """`transact(topic, values, commits)`: records in partition 0, in a transaction that is committed or aborted."""
    return operator.transact


@pytest.fixture(scope="session")
def grow(operator: Operator) -> Callable[[str, int], None]:
    """`grow(topic, partitions)`: as many as that in all."""
    return operator.grow


@pytest.fixture
def read_all(bootstrap: str) -> Callable[..., list[Any]]:
    """`read_all(topic, timeout=60)`: every message that the topic holds at that moment, by partition and offset."""

    def read(topic: str, timeout: float = 60.0) -> list[Any]:
        messages = read_topic(bootstrap, topic, timeout)
        return sorted(messages, key=lambda message: (message.partition(), message.offset()))

    return read

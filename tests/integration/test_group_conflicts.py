"""Members that cannot be in one group: who has to go ends by itself, and says why in one line."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Producer

import flux
from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter

SECONDS = 60.0

ADAPTERS: dict[str, Callable[[str], Any]] = {
    "aiokafka": lambda bootstrap: AiokafkaAdapter(
        bootstrap, consumer={"group_instance_id": "one", "session_timeout_ms": 6000, "heartbeat_interval_ms": 300}
    ),
    "confluent": lambda bootstrap: ConfluentAdapter(
        bootstrap, consumer={"group.instance.id": "one", "session.timeout.ms": 6000, "heartbeat.interval.ms": 300}
    ),
}


class Running:
    """A worker of one stage on a thread of its own."""

    def __init__(self, topic: str, group: str, adapter: Any) -> None:
        self.calls: list[int] = []
        calls = self.calls

        class Works(flux.Task):
            retries = 0

            def call(self, message: flux.Message) -> None:
                calls.append(message.offset)

        Works.topic, Works.group_id, Works.adapter = topic, group, adapter
        self.worker = flux.Worker(Works)
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.code = self.worker.run()

    def ended(self) -> int | None:
        self.thread.join(SECONDS)
        return self.code


@pytest.fixture
def start(topic: str, group: str, make_topic: Any) -> Iterator[Callable[[Any], Running]]:
    make_topic(name=f"{topic}-{group}-dlq")
    started: list[Running] = []

    def begin(adapter: Any) -> Running:
        started.append(Running(topic, group, adapter))
        return started[-1]

    yield begin
    for each in started:
        each.worker.stop()
    assert all(each.ended() is not None for each in started)


@pytest.fixture
def write(bootstrap: str, topic: str) -> Callable[[], None]:
    """Writes one record."""

    def once() -> None:
        producer = Producer({"bootstrap.servers": bootstrap})
        producer.produce(topic, b"value")
        assert producer.flush(30) == 0

    return once


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def said_of(record: logging.LogRecord) -> bool:
    """Whether it is another line about the same."""
    text = record.getMessage().lower()
    return any(word in text for word in ("instance", "protocol"))


def last_words(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of workers that failed: one line each, with no traceback."""
    ours = [record for record in caplog.records if record.name.startswith("flux")]
    told = [record for record in ours if record.levelno >= logging.ERROR or said_of(record)]
    assert not any(record.exc_info for record in told)
    return [record.getMessage() for record in told]


@pytest.mark.parametrize("client", sorted(ADAPTERS))
def test_of_two_static_members_with_one_id_the_first_ends_and_the_second_works(
    client: str,
    bootstrap: str,
    start: Callable[[Any], Running],
    write: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = start(ADAPTERS[client](bootstrap))
    write()
    wait_for(lambda: first.calls == [0])
    second = start(ADAPTERS[client](bootstrap))
    assert first.ended() == 1
    [words] = last_words(caplog)
    assert "instance" in words
    assert "give each process an id of its own" in words
    write()
    wait_for(lambda: 1 in second.calls)
    assert first.calls == [0]


@pytest.mark.parametrize(("one", "other"), [("confluent", "aiokafka"), ("aiokafka", "confluent")])
def test_a_member_with_another_protocol_than_its_group_ends(
    one: str,
    other: str,
    bootstrap: str,
    start: Callable[[Any], Running],
    write: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = {"aiokafka": AiokafkaAdapter, "confluent": ConfluentAdapter}
    works = start(plain[one](bootstrap))
    write()
    wait_for(lambda: works.calls == [0])
    assert start(plain[other](bootstrap)).ended() == 1
    [words] = last_words(caplog)
    assert "start them with one client" in words
    write()
    wait_for(lambda: works.calls == [0, 1])

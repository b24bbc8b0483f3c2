"""Connections that fall silent, as when a firewall forgets them: they stay open, and nothing comes or goes. All that
flux asks of a cluster gets through again, by either client, and without the user's doing."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import pytest
from brokers import NoBroker
from brokers.proxy import Proxy, behind_proxy
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import flux
from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.core.errors import BrokerError
from flux.core.ports import BEGINNING, Outgoing, ProducerSettings, TopicPartition

SECONDS = 30.0
GIVE_UP = 0.5  # seconds: less than any client waits for an answer

ADAPTERS: dict[str, Callable[[str], Any]] = {
    "aiokafka": lambda bootstrap: AiokafkaAdapter(
        bootstrap, {"request_timeout_ms": 2000}, consumer={"session_timeout_ms": 6000, "heartbeat_interval_ms": 500}
    ),
    "confluent": lambda bootstrap: ConfluentAdapter(
        bootstrap, {"socket.timeout.ms": 2000}, consumer={"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
    ),
}


@attrs.frozen
class Network:
    proxy: Proxy

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.proxy.port}"

    def topic(self, name: str = "") -> str:
        """A new one; by a client of its own, as older ones may be silenced."""
        name = name or f"t{secrets.token_hex(6)}"
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
        return name


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    try:
        with behind_proxy() as (_, proxy):
            yield Network(proxy)
    except NoBroker as reason:
        pytest.skip(f"no broker that can be put behind a proxy: {reason}")


@pytest.fixture(params=sorted(ADAPTERS))
def adapter(request: pytest.FixtureRequest, network: Network) -> Any:
    return ADAPTERS[request.param](network.bootstrap)


def until(works: Callable[[], bool]) -> float:
    """How long it took."""
    began = time.monotonic()
    while not works():
        assert time.monotonic() - began < SECONDS, f"does not get through again within {SECONDS:g} s"
    return time.monotonic() - began


def test_a_producer_whose_records_expire_before_the_client_gives_up(network: Network, adapter: Any) -> None:
    topic = network.topic()
    producer = adapter.producer(ProducerSettings(delivery_timeout=GIVE_UP))

    def written() -> bool:
        errors: list[BrokerError | None] = []
        producer.write(topic, [Outgoing(b"value")], lambda error, _: errors.append(error))
        producer.flush(SECONDS)
        return errors == [None]

    until(written)
    network.proxy.silence()
    until(written)
    producer.close(1)


def test_questions_that_are_asked_with_less_patience_than_the_client_has(network: Network, adapter: Any) -> None:
    topic = network.topic()
    admin = adapter.admin()

    def answered() -> bool:
        try:
            return topic in admin.topic_names(GIVE_UP)
        except BrokerError:
            return False

    until(answered)
    network.proxy.silence()
    until(answered)
    admin.close()


def test_a_producer_that_asks_for_partitions(network: Network, adapter: Any) -> None:
    producer = adapter.producer(ProducerSettings())
    first, second = network.topic(), network.topic()  # an answer is remembered

    def answered(topic: str) -> Callable[[], bool]:
        def look() -> bool:
            try:
                return producer.partitions(topic, GIVE_UP) == 1  # type: ignore[no-any-return]
            except BrokerError:
                return False

        return look

    until(answered(first))
    network.proxy.silence()
    until(answered(second))
    producer.close(1)


def test_a_reader(network: Network, adapter: Any) -> None:
    topic = network.topic()
    producer = adapter.producer(ProducerSettings())
    reader = adapter.reader({TopicPartition(topic, 0): BEGINNING})

    def read() -> bool:
        return bool(reader.poll(10, GIVE_UP).batches)

    producer.write(topic, [Outgoing(b"1")], lambda error, _: None)
    until(read)
    network.proxy.silence()
    producer.write(topic, [Outgoing(b"2")], lambda error, _: None)
    until(read)
    reader.close()
    producer.close(1)


@attrs.define
class Working:
    """A worker on a thread, with what it was called for."""

    worker: flux.Worker
    calls: list[bytes]
    thread: threading.Thread


@pytest.fixture
def working(network: Network, adapter: Any) -> Iterator[tuple[str, Working]]:
    topic, group = network.topic(), f"g{secrets.token_hex(6)}"
    network.topic(f"{topic}-{group}-try-1")
    network.topic(f"{topic}-{group}-dlq")
    calls: list[bytes] = []

    class Works(flux.Task):
        retries = 1
        wait = 0
        offset_commit_interval = 0.1

        def call(self, message: flux.Message) -> None:
            calls.append(message.value)
            if message.stage == 0 and message.value.startswith(b"fails"):
                raise ValueError

    Works.topic, Works.group_id, Works.adapter = topic, group, adapter
    worker = flux.Worker(Works)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield topic, Working(worker, calls, thread)
    worker.stop()
    thread.join(40)
    assert not thread.is_alive()


def test_a_worker_with_its_retries_and_its_positions(
    network: Network, adapter: Any, working: tuple[str, Working]
) -> None:
    topic, at = working
    producer = ConfluentAdapter(network.bootstrap).producer(ProducerSettings())

    def called(value: bytes, times: int) -> Callable[[], bool]:
        producer.write(topic, [Outgoing(value)], lambda error, _: None)

        def look() -> bool:
            time.sleep(0.02)
            return at.calls.count(value) >= times

        return look

    until(called(b"fails at first", 2))
    network.proxy.silence()
    producer.close(0)
    producer = ConfluentAdapter(network.bootstrap).producer(ProducerSettings())
    until(called(b"fails later", 2))
    admin = adapter.admin()
    group = at.worker.tasks[0].group_id

    def committed() -> bool:
        time.sleep(0.1)
        position: Mapping[int, Any] = admin.positions(group, topic, 5.0)
        return position.get(0, (0,))[0] == 2  # type: ignore[no-any-return]

    until(committed)
    admin.close()
    producer.close(0)

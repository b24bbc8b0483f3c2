"""A broker that belongs to one test module, and what its tests do to it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import pytest
from brokers import NoBroker
from brokers.jars import Node, node
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

_QUICK = {
    # A broker that was killed may come back once the cluster has noticed that it was gone.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "300",
}


@attrs.frozen
class Own:
    node: Node
    admin: AdminClient

    @property
    def bootstrap(self) -> str:
        return self.node.bootstrap

    def name(self) -> str:
        return f"t{secrets.token_hex(6)}"

    def topic(self) -> str:
        """A new one with one partition."""
        name = self.name()
        self.make(name)
        return name

    def make(self, *names: str) -> None:
        until = time.monotonic() + 60
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})  # knows no broker that stood still
        for name in names:
            self._make(admin, name, until)
        while time.monotonic() < until:
            with suppress(KafkaException):
                known = admin.list_topics(timeout=10).topics
                if all(name in known and known[name].partitions[0].leader >= 0 for name in names):
                    return
            time.sleep(0.05)
        pytest.fail(f"the broker did not make {', '.join(names)} in 60 s")

    def _make(self, admin: AdminClient, name: str, until: float) -> None:
        while True:
            try:
                admin.create_topics([NewTopic(name, 1, 1)])[name].result(60)
                return
            except TimeoutError:
                pytest.fail(f"the broker did not make {name} in 60 s: {self.node.log}")
            except KafkaException as error:
                # the cluster has taken a broker that stood still for dead, and has not taken it back yet
                if error.args[0].code() != KafkaError.INVALID_REPLICATION_FACTOR or time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def write(self, topic: str, *records: tuple[bytes, bytes]) -> None:
        """Keys and values, by a client that knows nothing of flux."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for key, value in records:
            producer.produce(topic, value, key)
        assert producer.flush(30) == 0

    def read(self, topic: str, timeout: float = 30.0) -> list[Any]:
        """Every message that the topic holds at this moment, by partition and offset."""
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "none", "enable.auto.commit": False, "log_level": 0}
        )
        until = time.monotonic() + timeout
        try:
            ends: dict[int, int] = {}
            for number in consumer.list_topics(topic, timeout=timeout).topics[topic].partitions:
                while number not in ends:
                    try:
                        ends[number] = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=2)[1]
                    except KafkaException:  # it may have come back just now
                        assert time.monotonic() < until
            consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n, end in ends.items() if end])
            messages: list[Any] = []
            while len(messages) < sum(ends.values()):
                assert time.monotonic() < until, f"topic {topic} was not read in {timeout} s"
                messages += [message for message in consumer.consume(1000, 0.1) if message.error() is None]
            return sorted(messages, key=lambda message: (message.partition(), message.offset()))
        finally:
            consumer.close()

    def values(self, topic: str) -> list[bytes]:
        return [message.value() for message in self.read(topic)]


@contextmanager
def own_broker(extra: Mapping[str, str] | None = None) -> Iterator[Own]:
    """Skips the test where there are no jars, or no Java to run them."""
    try:
        with node({**_QUICK, **(extra or {})}) as made:
            yield Own(made, AdminClient({"bootstrap.servers": made.bootstrap, "log_level": 0}))
    except NoBroker as reason:
        pytest.skip(f"no broker that may be killed or wants TLS: {reason}")

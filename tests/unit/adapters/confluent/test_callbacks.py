"""A user's callables among the adapter's options may raise: no record is lost, and the client goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, Message

from flux.adapters.confluent import ConfluentAdapter
from flux.adapters.confluent import consumer as module
from flux.adapters.confluent.acknowledgements import Acknowledgements
from flux.core.ports import ConsumerSettings, TopicPartition
from unit.support.memory_support import ScriptedSystem


class Client:
    """confluent_kafka.Consumer, which calls back in each `consume` and then has a record."""

    def __init__(self, properties: dict[str, Any]) -> None:
        self.properties = properties
        self.offset = 0

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None: ...

    def consume(self, count: int, timeout: float) -> list[Any]:
        self.properties["error_cb"](KafkaError(KafkaError._TRANSPORT, "h:9092/1: refused"))
        self.properties["stats_cb"]('{"brokers":{}}')
        if "throttle_cb" in self.properties:
            self.properties["throttle_cb"](None)
        self.properties["logger"].log(logging.ERROR, "%s [%s] %s", "FAIL", "thread", "h:9092/1: refused")
        self.offset += 1
        return [Message(topic="t", partition=0, offset=self.offset, value=b"x")]


class Listener:
    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {}

    revoked = lost = cast(Any, assigned)


def broken(*given: object) -> None:
    raise ValueError("the user's own")


class BrokenLogger:
    log = staticmethod(broken)


CALLABLES: dict[str, Any] = {
    "error_cb": broken, "stats_cb": broken, "throttle_cb": broken, "logger": BrokenLogger(),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLABLES)
def test_a_consumer_goes_on_when_a_callback_raises_and_says_so_once_a_minute(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "Consumer", Client)
    system: Any = ScriptedSystem()
    consumer = ConfluentAdapter("h:9092", {name: CALLABLES[name]}, system=system).consumer(
        ConsumerSettings("t", "g"), Listener()
    )
    offsets = [consumer.poll(1, 0).batches[0].records[0].offset() for _ in range(5)]
    assert offsets == [1, 2, 3, 4, 5]
    [line] = [line for line in caplog.messages if "the user's own" in line]
    assert line.startswith(f"the adapter's {name} failed")
    assert "in broken" in line
    system.time += 61
    consumer.poll(1, 0)
    assert len([line for line in caplog.messages if "the user's own" in line]) == 2


def test_a_callback_may_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(error: KafkaError) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(module, "Consumer", Client)
    consumer = ConfluentAdapter("h:9092", {"error_cb": leave}).consumer(ConsumerSettings("t", "g"), Listener())
    with pytest.raises(SystemExit):
        consumer.poll(1, 0)


@contextmanager
def serving(answers: list[Callable[[], None]], system: ScriptedSystem) -> Iterator[Acknowledgements]:
    def poll(client: Any, timeout: float) -> None:
        answers.pop(0)()
        if not answers:
            acknowledgements.stop()

    acknowledgements = Acknowledgements(None, poll, lambda client: None, "p", cast(Any, system))
    yield acknowledgements


def test_acknowledgements_are_served_after_a_callback_that_ends_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    system, served = ScriptedSystem(), []

    def leave() -> None:
        raise SystemExit(3)

    with serving([leave, lambda: served.append("acknowledged")], system):
        system.run_spawned()
    assert served == ["acknowledged"]
    assert "serving acknowledgements failed" in caplog.text

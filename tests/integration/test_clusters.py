"""One process on several clusters at once: a real Kafka, by both clients, and one in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

import flux
from flux.adapters.memory import MemoryAdapter, forget
from integration.job.support import Lab, wait_for


@pytest.fixture
def lab(
    bootstrap: str,
    kafka_admin: AdminClient,
    unique: Callable[[], str],
    make_topic: Callable[..., str],
    read_all: Callable[..., list[Any]],
    tmp_path: Path,
) -> Lab:
    return Lab(bootstrap, kafka_admin, unique, make_topic, read_all, tmp_path)


@pytest.fixture
def memory(unique: Callable[[], str]) -> Iterator[MemoryAdapter]:
    name = unique()
    yield MemoryAdapter(name)
    forget(name)


def write(adapter: MemoryAdapter, to: str, *values: bytes) -> None:
    class Elsewhere(flux.Producer):
        topic = to

    elsewhere = Elsewhere(adapter=adapter)
    for value in values:
        elsewhere.produce(value)
    elsewhere.close(5)


def values(adapter: MemoryAdapter, topic: str) -> list[bytes | None]:
    return [record.value() for record in adapter.broker.records(topic)]


def test_three_clients_work_in_one_process_and_failures_stay_on_their_cluster(lab: Lab, memory: MemoryAdapter) -> None:
    calls: dict[str, list[tuple[bytes, int]]] = {"confluent": [], "aiokafka": [], "memory": []}

    def handler(name: str) -> Callable[[flux.Message], None]:
        def call(message: flux.Message) -> None:
            calls[name].append((message.value, message.stage))
            if message.value == b"bad":
                raise ConnectionError

        return call

    confluent = lab.task(handler("confluent"), adapter=f"confluent://{lab.bootstrap}")
    aiokafka = lab.task(handler("aiokafka"), adapter=f"aiokafka://{lab.bootstrap}")
    # the same topic and group as on Kafka: another cluster's are other ones
    local = lab.task(
        handler("memory"), topics=False, adapter=memory, topic=confluent.topic, group_id=confluent.group_id
    )
    for stage in local.policy().stages:
        memory.broker.create_topic(stage.topic)
    lab.write(confluent.topic, b"good", b"bad")
    lab.write(aiokafka.topic, b"good", b"bad")
    write(memory, local.topic, b"good", b"bad")

    dead = lab.dead_topic(local)
    with lab.running(confluent, aiokafka, local):
        lab.settle(confluent)
        lab.settle(aiokafka)
        wait_for(lambda: values(memory, dead), "the memory cluster's dead letter")
    assert all(sorted(found) == [(b"bad", 0), (b"bad", 1), (b"good", 0)] for found in calls.values()), calls
    assert [m.value() for m in lab.dead(confluent)] == [b"bad"]
    assert [m.value() for m in lab.dead(aiokafka)] == [b"bad"]
    assert values(memory, dead) == [b"bad"]
    assert memory.broker.committed_offsets(local.group_id, local.topic)[0].offset == 2


def test_a_record_is_done_only_when_the_other_cluster_has_what_its_call_produced(
    lab: Lab, memory: MemoryAdapter
) -> None:
    produced = threading.Event()

    class Archive(flux.Producer):
        topic = "archive"
        adapter = memory
        options = flux.ProducerOptions(delivery_timeout=60)

    def handler(message: flux.Message) -> None:
        Archive.produce(message.value)
        produced.set()

    task = lab.task(handler, adapter=f"confluent://{lab.bootstrap}")
    memory.broker.create_topic("archive")
    memory.broker.available = False
    lab.write(task.topic, b"kept")
    with lab.running(task):
        assert produced.wait(60)
        # commits are made every 0.2 s: five of them
        assert not threading.Event().wait(1)
        assert not lab.worked(task, 0)
        memory.broker.available = True
        lab.settle(task)
    assert values(memory, "archive") == [b"kept"]
    Archive.close(5)

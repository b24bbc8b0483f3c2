"""A broker that makes every topic that a client asks for: no client of flux asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import flux
from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.testing.contract import Bench, absent
from integration.job.support import wait_for
from integration.own import Own, own_broker

ADAPTERS: dict[str, Any] = {
    "confluent": lambda bootstrap: ConfluentAdapter(bootstrap, {"topic.metadata.refresh.interval.ms": 500}),
    "confluent, KIP-848": lambda bootstrap: ConfluentAdapter(
        bootstrap, {"topic.metadata.refresh.interval.ms": 500}, consumer={"group.protocol": "consumer"}
    ),
    "aiokafka": lambda bootstrap: AiokafkaAdapter(bootstrap, {"metadata_max_age_ms": 500}),
}


@pytest.fixture(scope="module")
def own() -> Iterator[Own]:
    with own_broker({"auto.create.topics.enable": "true"}) as broker:
        yield broker


CASES = [(name, client) for client in ADAPTERS for name in absent.CONTRACT if "KIP" not in client or "member" in name]


@pytest.mark.parametrize(("name", "client"), CASES)
def test_contract_where_the_broker_makes_topics(name: str, client: str, own: Own) -> None:
    with Bench(ADAPTERS[client](own.bootstrap)) as bench:
        absent.CONTRACT[name](bench)


def failing(message: flux.Message) -> None:
    if message.value == b"bad":
        raise ValueError("no")
    worked.append(message.value)


worked: list[bytes] = []


@pytest.mark.parametrize("scheme", ["confluent", "aiokafka"])
@pytest.mark.parametrize("number", [1, 2], ids=["a retry topic", "the dead letters"])
def test_a_record_whose_next_topic_was_deleted_stays_and_the_log_names_the_remedy(
    own: Own, scheme: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    topic = own.name()
    task = flux.task(topic=topic, group_id="g", retries=1, wait=0.1, offset_commit_interval=0.1)(failing)
    stages = [stage.topic for stage in task.policy().stages]
    own.make(*stages)
    gone = stages[number]
    worked.clear()
    worker = flux.Worker(task, adapter=f"{scheme}://{own.bootstrap}")
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        own.write(topic, (b"first", b"bad"))
        wait_for(lambda: own.values(stages[2]) == [b"bad"], "everything works")
        own.admin.delete_topics([gone])[gone].result(30)
        own.write(topic, (b"k", b"bad"), *((b"other", b"%d" % n) for n in range(3)))
        wait_for(lambda: len(worked) == 3, "other records go on")
        wait_for(lambda: "create it: flux topics TASK --create" in caplog.text, "the remedy is named", 40)
        assert gone not in own.admin.list_topics(timeout=10).topics, "somebody has made it"
        own.make(gone)
        wait_for(lambda: b"bad" in own.values(gone), "the record moves on", 90)
    finally:
        worker.stop()
        thread.join(60)
    assert not thread.is_alive()

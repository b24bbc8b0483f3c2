"""A broker that makes every topic that a client asks for: no client of flux asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.testing.contract import Bench, absent
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

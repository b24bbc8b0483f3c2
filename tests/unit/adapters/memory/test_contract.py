"""The in-memory broker keeps the contract that the clients of Kafka keep."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import pytest

from flux.adapters.memory import MemoryAdapter, forget
from flux.core.ports import ProducerRecord, ProducerSettings, TopicPartition
from flux.testing.contract import CHECKS, Bench


@pytest.mark.parametrize("name", CHECKS)
def test_contract(name: str) -> None:
    cluster = f"contract-{secrets.token_hex(4)}"
    adapter = MemoryAdapter(cluster, auto_create=False)
    impatient = MemoryAdapter(cluster, max_poll_interval=0.2)

    def transact(topic: str, values: Sequence[bytes], commits: bool) -> None:
        if commits:
            adapter.producer(ProducerSettings()).write(
                topic, [ProducerRecord(value) for value in values], lambda *_: None
            )
        adapter.broker.skip_offsets(TopicPartition(topic, 0), 1 if commits else len(values) + 1)

    with Bench(adapter, impatient=impatient, transact=transact, grow=adapter.broker.grow_topic, seconds=10) as bench:
        CHECKS[name](bench)
    forget(cluster)

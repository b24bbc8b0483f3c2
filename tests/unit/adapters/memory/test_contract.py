"""The in-memory broker keeps the contract that the clients of Kafka keep."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import pytest

from flux.adapters.memory import MemoryAdapter, forget
from flux.core.ports import ProducerRecord
from flux.testing.contract import CHECKS, Bench


@pytest.mark.parametrize("name", CHECKS)
def test_contract(name: str) -> None:
    cluster = f"contract-{secrets.token_hex(4)}"
    adapter = MemoryAdapter(cluster, auto_create=False)
    impatient = MemoryAdapter(cluster, max_poll_interval=0.2)

    def transact(topic: str, values: Sequence[bytes], commits: bool) -> None:
        records = [ProducerRecord(value, partition=0) for value in values]
        adapter.broker.write_transaction(topic, records, commits=commits)

    with Bench(adapter, impatient=impatient, transact=transact, grow=adapter.broker.grow_topic, seconds=10) as bench:
        CHECKS[name](bench)
    forget(cluster)

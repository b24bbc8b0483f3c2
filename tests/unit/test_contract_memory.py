"""The in-memory broker keeps the contract that the clients of Kafka keep."""

from __future__ import annotations

import secrets

import pytest

from flux.adapters.memory import MemoryAdapter, forget
from flux.testing.contract import CHECKS, Bench


@pytest.mark.parametrize("name", CHECKS)
def test_contract(name: str) -> None:
    cluster = f"contract-{secrets.token_hex(4)}"
    with Bench(MemoryAdapter(cluster), impatient=MemoryAdapter(cluster, max_poll_interval=0.2), seconds=10) as bench:
        CHECKS[name](bench)
    forget(cluster)

"""aiokafka's adapter keeps the contract."""

from __future__ import annotations

import pytest

from flux.adapters.aiokafka import AiokafkaAdapter
from flux.testing.contract import CHECKS, Bench

QUICK = {"heartbeat_interval_ms": 200}
IMPATIENT = {**QUICK, "max_poll_interval_ms": 2000}


@pytest.mark.parametrize("name", CHECKS)
def test_contract(name: str, bootstrap: str) -> None:
    adapter = AiokafkaAdapter(bootstrap, consumer=QUICK)
    impatient = AiokafkaAdapter(bootstrap, consumer=IMPATIENT)
    with Bench(adapter, impatient=impatient) as bench:
        CHECKS[name](bench)

"""aiokafka's adapter keeps the contract."""

from __future__ import annotations

import pytest

from flux.adapters.aiokafka import AiokafkaAdapter
from flux.testing.contract import CHECKS, Bench
from flux.testing.contract.bench import Grow, Transact

QUICK = {"heartbeat_interval_ms": 200, "metadata_max_age_ms": 1000}
IMPATIENT = {**QUICK, "max_poll_interval_ms": 2000}


@pytest.mark.parametrize("name", CHECKS)
def test_contract(name: str, bootstrap: str, transact: Transact, grow: Grow) -> None:
    adapter = AiokafkaAdapter(bootstrap, consumer=QUICK)
    impatient = AiokafkaAdapter(bootstrap, consumer=IMPATIENT)
    with Bench(adapter, impatient=impatient, transact=transact, grow=grow) as bench:
        CHECKS[name](bench)

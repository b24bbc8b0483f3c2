"""confluent-kafka's adapter keeps the contract, with either protocol of consumer groups."""

from __future__ import annotations

import pytest

from flux.adapters.confluent import ConfluentAdapter
from flux.testing.contract import (
    CHECKS,
    Bench,
    committed_offsets,
    groups,
    records,
    transactional_offsets,
    transactional_producers,
    transactions,
)
from flux.testing.contract.bench import Grow, Transact

CLASSIC = {"heartbeat.interval.ms": 200, "topic.metadata.refresh.interval.ms": 1000}
IMPATIENT = {**CLASSIC, "session.timeout.ms": 6000, "max.poll.interval.ms": 6000}
KIP_848 = {"group.protocol": "consumer", "topic.metadata.refresh.interval.ms": 1000}


# With this protocol librdkafka waits for a topic that does not exist, and says nothing.
SILENT = {"a_topic_that_does_not_exist_is_named"}
ABOUT_CONSUMERS = [
    name
    for part in (groups, committed_offsets, records, transactions, transactional_offsets, transactional_producers)
    for name in part.CONTRACT
    if name not in SILENT
]


@pytest.mark.parametrize("name", CHECKS)
def test_contract(name: str, bootstrap: str, transact: Transact, grow: Grow) -> None:
    adapter = ConfluentAdapter(bootstrap, consumer=CLASSIC)
    impatient = ConfluentAdapter(bootstrap, consumer=IMPATIENT)
    with Bench(adapter, impatient=impatient, transact=transact, grow=grow) as bench:
        CHECKS[name](bench)


@pytest.mark.parametrize("name", ABOUT_CONSUMERS)
def test_contract_with_the_new_protocol(name: str, bootstrap: str, transact: Transact, grow: Grow) -> None:
    with Bench(ConfluentAdapter(bootstrap, consumer=KIP_848), transact=transact, grow=grow) as bench:
        CHECKS[name](bench)

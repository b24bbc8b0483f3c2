"""confluent-kafka's adapter keeps the contract, with either protocol of consumer groups."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from flux.adapters.confluent import ConfluentAdapter
from flux.testing.contract import CHECKS, Bench, groups, positions, records

CLASSIC = {"heartbeat.interval.ms": 200}
IMPATIENT = {**CLASSIC, "session.timeout.ms": 6000, "max.poll.interval.ms": 6000}
KIP_848 = {"group.protocol": "consumer"}


# A closed consumer of confluent-kafka's raises RuntimeError, and the adapter lets it through.
KNOWN = {"a_member_that_closes_hears_it_once"}
# With this protocol librdkafka waits for a topic that does not exist, and says nothing.
SILENT = {"a_topic_that_does_not_exist_is_named"}
ABOUT_CONSUMERS = [name for part in (groups, positions, records) for name in part.CONTRACT if name not in SILENT]


def each(names: Iterable[str]) -> list[object]:
    marks = {name: [pytest.mark.xfail(raises=RuntimeError)] if name in KNOWN else [] for name in names}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.mark.parametrize("name", each(CHECKS))
def test_contract(name: str, bootstrap: str) -> None:
    adapter = ConfluentAdapter(bootstrap, consumer=CLASSIC)
    impatient = ConfluentAdapter(bootstrap, consumer=IMPATIENT)
    with Bench(adapter, impatient=impatient) as bench:
        CHECKS[name](bench)


@pytest.mark.parametrize("name", each(ABOUT_CONSUMERS))
def test_contract_with_the_new_protocol(name: str, bootstrap: str) -> None:
    with Bench(ConfluentAdapter(bootstrap, consumer=KIP_848)) as bench:
        CHECKS[name](bench)

"""What a newcomer does first, on a cluster that has never had a group: its coordinator is made meanwhile."""

from __future__ import annotations

import pytest
from brokers import NoBroker
from brokers.jars import node

import flux
from flux.core.ports import NewTopic


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_positions_can_be_asked_for_before_there_was_any_group(client: str) -> None:
    try:
        with node() as fresh:
            admin = flux.adapter_from_url(f"{client}://{fresh.bootstrap}").admin()
            admin.create_topics([NewTopic("t", 1, 1)], 10)
            assert admin.positions("g", "t", 10) == {}
            admin.close()
    except NoBroker as error:
        pytest.skip(str(error))

"""Groups whose partitions the broker assigns (KIP-848) are seen by either client, also by one that cannot join them:
what refuses to work while a group has members relies on it, and the status of a task."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer

import flux
from flux.core.ports import TopicPartition
from flux.operate.status.status import read_status


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_their_members_are_told_with_what_they_have(
    bootstrap: str, client: str, make_topic: Callable[..., str], group: str
) -> None:
    topic = make_topic(3)
    member = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "group.protocol": "consumer", "client.id": "somebody"}
    )
    admin = flux.adapter_from_url(f"{client}://{bootstrap}").admin()
    try:
        assert admin.members(group, 30) == []
        member.subscribe([topic])
        until = time.monotonic() + 30
        while len(member.assignment()) < 3:
            assert time.monotonic() < until
            member.poll(0.1)
        [found] = admin.members(group, 30)
        assert found.client_id == "somebody"
        assert found.partitions == tuple(TopicPartition(topic, number) for number in range(3))
        policy = flux.task(topic=topic, group_id=group)(lambda message: None).policy()
        assert read_status(flux.adapter_from_url(f"{client}://{bootstrap}"), admin, policy, None).stages[0].members == [
            found
        ]
        member.close()
        while admin.members(group, 30):
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        member.close()
        admin.close()

"""From one client to the other, all members of a group being stopped meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import flux
from flux import adapter_from_url
from flux.core.ports import Adapter, AsyncAdapter
from integration.job.support import Lab, wait_for

SCHEMES = ["confluent", "aiokafka"]


def positions(adapter: Adapter | AsyncAdapter, group: str, topic: str) -> str:
    admin = adapter.admin()
    try:
        return admin.committed_offsets(group, topic, 20)[0].metadata
    finally:
        admin.close()


@pytest.mark.parametrize(("before", "after"), [SCHEMES, SCHEMES[::-1]], ids=["to aiokafka", "to confluent"])
def test_the_other_client_knows_what_was_done_above_a_position(lab: Lab, before: str, after: str) -> None:
    calls: Counter[bytes] = Counter()
    released = False

    async def call(message: flux.Message) -> None:
        calls[message.value] += 1
        if message.value == b"stuck" and not released:
            await asyncio.sleep(60)

    task = lab.task(call, retries=0, shutdown_timeout=0.3)
    values = [b"%d" % n for n in range(300)]
    lab.write(
        task.topic, *((value, value) for value in values[:10]), b"stuck", *((value, value) for value in values[10:])
    )
    with lab.running(task, adapter=f"{before}://{lab.bootstrap}"):
        wait_for(lambda: calls.total() == 301, "all but one are done")
    found = {
        positions(adapter_from_url(f"{scheme}://{lab.bootstrap}"), task.group_id, task.topic) for scheme in SCHEMES
    }
    assert len(found) == 1
    assert found.pop().startswith("flux1")
    released = True
    with lab.running(task, adapter=f"{after}://{lab.bootstrap}"):
        lab.settle(task)
    assert calls == Counter(values) + Counter({b"stuck": 2})

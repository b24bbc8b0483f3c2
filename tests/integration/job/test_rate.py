"""How many calls are made, and how long each may take."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

import flux
from integration.job.support import Lab, flux_headers, wait_for
from integration.job.ways import OPPOSITES, Way

RATE = 100
SECONDS = 2
LOOKS = 5
"""Of which one has to be as it should: a machine that stands still for a moment makes no calls in it."""


@pytest.mark.timed
@pytest.mark.parametrize("way", OPPOSITES, ids=str)
def test_a_rate_is_held_evenly_and_costs_little(lab: Lab, way: Way) -> None:
    begins: list[float] = []
    task = lab.task(way.handler(lambda message: begins.append(time.monotonic())), partitions=3, rate_limit=RATE)
    lab.write(task.topic, *((b"v", b"key-%d" % n) for n in range((LOOKS * SECONDS + 2) * RATE)))
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        wait_for(lambda: len(begins) > RATE / 2, "it works")
        for _ in range(LOOKS):
            first, cpu = len(begins), time.process_time()
            time.sleep(SECONDS)
            calls, used = begins[first:], time.process_time() - cpu
            rate = (len(calls) - 1) / (calls[-1] - calls[0])
            most = max(Counter(int((begun - calls[0]) * 10) for begun in calls).values())
            print(f"\n{way}: {rate:.1f} calls/s, up to {most} in a tenth of a second, {used / SECONDS:.0%} of a core")
            if (
                0.95 * RATE <= rate <= 1.05 * RATE and most <= 0.15 * RATE and used < 0.3 * SECONDS
            ):  # no bursts: 10 each
                return
    pytest.fail("see above")


@pytest.mark.timed
@pytest.mark.parametrize("scheme", ["confluent", "aiokafka"])
def test_two_members_of_a_group_share_its_rate(lab: Lab, scheme: str) -> None:
    begins: list[float] = []

    async def call(message: flux.Message) -> None:
        begins.append(time.monotonic())

    task = lab.task(call, partitions=4, retries=0, rate_limit=RATE, rate_limit_scope="group")
    lab.write(task.topic, *((b"v", b"key-%d" % n) for n in range(((LOOKS + 2) * SECONDS + 2) * RATE)))
    adapter = f"{scheme}://{lab.bootstrap}"
    with lab.running(task, adapter=adapter):
        wait_for(lambda: begins, "one works")
        with lab.running(task, adapter=adapter):
            wait_for(lambda: len(lab.members(task.group_id)) == 2, "two are members")
            time.sleep(1)  # the rebalance
            for _ in range(LOOKS):
                first = len(begins)
                time.sleep(SECONDS)
                calls = begins[first:]
                rate = (len(calls) - 1) / (calls[-1] - calls[0])
                print(f"\n{scheme}: {rate:.1f} calls/s of two members")
                if 0.9 * RATE <= rate <= 1.05 * RATE:
                    return
    pytest.fail("see above")


@pytest.mark.parametrize("scheme", ["confluent", "aiokafka"])
def test_an_awaited_call_that_takes_too_long_is_cancelled_and_fails(lab: Lab, scheme: str) -> None:
    cancelled: list[bytes] = []
    done: list[bytes] = []

    async def call(message: flux.Message) -> None:
        try:
            await asyncio.sleep(30 if message.value == b"slow" else 0.01)
        except asyncio.CancelledError:
            cancelled.append(message.value)
            raise
        done.append(message.value)

    task = lab.task(call, retries=1, timeout=0.3)
    lab.write(task.topic, (b"slow", b"a"), (b"quick", b"b"), (b"next", b"a"))
    with lab.running(task, adapter=f"{scheme}://{lab.bootstrap}"):
        lab.settle(task)
    assert cancelled == [b"slow", b"slow"]
    assert sorted(done) == [b"next", b"quick"]
    [dead] = lab.dead(task)
    assert dead.value() == b"slow"
    assert flux_headers(dead)["flux-error-type"] == b"TimeoutError"
    assert flux_headers(dead)["flux-error-message"] == b"the call took longer than timeout = 0.3 s"


def test_a_call_that_blocks_for_too_long_is_named_with_where_it_is(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    def call(message: flux.Message) -> None:
        time.sleep(1.5)

    task = lab.task(call, retries=0, timeout=0.2)
    lab.write(task.topic, b"v")
    lab.work(task)
    [line] = [record.getMessage() for record in caplog.records if "longer than timeout" in record.getMessage()]
    assert f"{task.topic}[0]@0" in line
    assert "time.sleep(1.5)" in line
    assert lab.dead(task) == []

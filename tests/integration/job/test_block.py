"""A worker in a `with` block on a real cluster."""

from __future__ import annotations

import asyncio

import pytest

import flux
from flux.core.errors import BrokerError, Fault
from integration.job.support import Lab, wait_for

SCHEMES = ["confluent", "aiokafka"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_block_serves_commits_and_leaves_the_group(lab: Lab, scheme: str, asynchronous: bool) -> None:
    done: list[bytes] = []

    async def handler(message: flux.Message) -> None:
        done.append(message.value)

    task = lab.task(handler if asynchronous else lambda message: done.append(message.value))
    worker = flux.Worker(task, adapter=f"{scheme}://{lab.bootstrap}")

    def body() -> None:
        assert worker.ready
        lab.write(task.topic, b"1", b"2")
        wait_for(lambda: len(done) == 2, "both are done")
        raise LookupError

    async def main() -> None:
        async with worker:
            await asyncio.to_thread(body)

    def plainly() -> None:
        with worker:
            body()

    with pytest.raises(LookupError):
        asyncio.run(main()) if asynchronous else plainly()
    assert done == [b"1", b"2"]
    assert lab.committed_offsets(task.group_id, task.topic)[0].offset == 2
    assert lab.members(task.group_id) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_keeps_it_from_starting_is_raised_before_the_block(lab: Lab, scheme: str, secured: str) -> None:
    missing = lab.task(lambda message: None, topics=False)
    with (
        pytest.raises(flux.ConfigurationError, match=r"missing topic\(s\)"),
        flux.Worker(missing, adapter=f"{scheme}://{lab.bootstrap}"),
    ):
        pytest.fail("the block ran")

    login = {
        "confluent": "security.protocol=SASL_PLAINTEXT&sasl.mechanism=PLAIN&sasl.username=ada&sasl.password=wrong-one",
        "aiokafka": "security_protocol=SASL_PLAINTEXT&sasl_mechanism=PLAIN&sasl_plain_username=ada"
        "&sasl_plain_password=wrong-one",
    }[scheme]
    with pytest.raises(BrokerError) as refused, flux.Worker(missing, adapter=f"{scheme}://{secured}?{login}"):
        pytest.fail("the block ran")
    assert refused.value.fault is Fault.LOGIN

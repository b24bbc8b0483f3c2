"""Records that are small on the wire and large when they are unpacked."""

from __future__ import annotations

import logging
import secrets

import pytest
from confluent_kafka import Producer

import flux

from .support import SECONDS, Lab, wait_for

LARGE = b"x" * 3_000_000


@pytest.mark.parametrize("scheme", ["confluent", "aiokafka"])
def test_a_copy_travels_compressed_as_its_record_did(lab: Lab, scheme: str) -> None:
    seen: list[tuple[int, bool]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.stage, message.value == LARGE))
        raise ValueError

    task = lab.task(call, retries=1, adapter=f"{scheme}://{lab.bootstrap}")
    writer = Producer(
        {"bootstrap.servers": lab.bootstrap, "compression.type": "gzip", "message.max.bytes": 2 * len(LARGE)}
    )
    writer.produce(task.topic, LARGE)
    assert writer.flush(SECONDS) == 0
    with lab.running(task, exit_when_idle=0.5) as running:
        wait_for(lambda: running.ended, "it ends by itself")
    assert seen == [(0, True), (1, True)]
    [dead] = lab.dead(task)
    assert dead.value() == LARGE
    assert lab.settled(task)


@pytest.mark.parametrize("scheme", ["confluent", "aiokafka"])
def test_what_does_not_fit_all_the_same_is_kept_and_named(
    lab: Lab, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    def call(message: flux.Message) -> None:
        raise ValueError

    task = lab.task(call, topics=False, adapter=f"{scheme}://{lab.bootstrap}")
    for stage, size in zip(task.policy().stages, (1_000_000, 10_000, 1_000_000), strict=True):
        lab.make_topic(1, stage.topic, max_message_bytes=size)
    lab.write(task.topic, bytes(range(256)) * 200 + secrets.token_bytes(20_000))
    with lab.running(task, code=1, exit_when_idle=1) as running:
        wait_for(lambda: running.ended, "it ends by itself")
    assert "raise max.message.bytes of" in caplog.text
    assert [line.levelno for line in caplog.records if "not forwarded" in line.getMessage()] == [logging.ERROR]
    assert lab.committed_offsets(task.group_id, task.topic)[0].offset <= 0

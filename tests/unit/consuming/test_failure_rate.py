"""A task pauses when too many of its calls fail, and goes on when one succeeds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

import flux
from unit.support.peers_support import Peer, wait_for

RATE = flux.FailureRate(0.5, of=20)  # 10 failures
RETRIES = 12
"""More than it takes to pause, so that no record can be dead before."""


class Dependency:
    def __init__(self) -> None:
        self.broken = True
        self.called = 0
        self.done: list[bytes | None] = []

    def use(self, message: flux.Message) -> None:
        self.called += 1
        if self.broken:
            raise LookupError("no such host")
        self.done.append(message.value)


dependency = Dependency()


@pytest.fixture(autouse=True)
def _broken() -> None:
    vars(dependency).update(vars(Dependency()))


class Plain(flux.Task):
    topic, group_id, wait, retries, pause_when = "t", "g", 0.1, RETRIES, RATE

    def call(self, message: flux.Message) -> None:
        dependency.use(message)


class Awaited(Plain):
    async def call(self, message: flux.Message) -> None:  # type: ignore[override]
        dependency.use(message)


class Batched(flux.BatchTask):
    topic, group_id, wait, retries, pause_when = "t", "g", 0.1, RETRIES, RATE
    max_batch, max_wait = 7, 0.01

    def call(self, messages: Sequence[flux.Message]) -> None:
        failures = {}
        for message in messages:
            try:
                dependency.use(message)
            except LookupError as error:
                failures[message] = error
        if failures:
            raise flux.BatchFailure(failures)


@pytest.mark.parametrize("task", [Plain, Awaited, Batched])
def test_an_outage_that_no_exception_names_moves_few_records(
    task: type[flux.Task[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flux")
    peer, values = Peer(), [str(number).encode() for number in range(200)]
    tries = [f"t-g-try-{number}" for number in range(1, RETRIES + 1)]
    for topic in ("t", *tries, "t-g-dlq"):
        peer.broker.create_topic(topic, 1)
    peer.write(*values)
    with peer.working(task):
        wait_for(lambda: "is paused" in caplog.text, "it pauses")
        assert sum(len(peer.values(topic)) for topic in tries) <= 9
        dependency.broken = False
        wait_for(lambda: len(dependency.done) == 200, "all are done")
        wait_for(lambda: "resumed after a pause" in caplog.text, "it goes on")
    assert sorted(dependency.done) == sorted(values)  # type: ignore[type-var]
    assert peer.values("t-g-dlq") == []
    assert "10 of the last 10 calls failed, the last with LookupError: no such host" in caplog.text

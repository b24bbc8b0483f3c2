"""Errors of calls are freed once they are dealt with. An error holds the frames of its call and all that was in them:
in an outage the garbage collector would have half of the process to look through, again and again."""

from __future__ import annotations

import gc
import secrets
import weakref
from collections.abc import Iterator, Sequence

import pytest

import flux
from flux.adapters.memory import MemoryAdapter, forget
from flux.core.ports import ProducerRecord, ProducerSettings

RECORDS = 400

alive: weakref.WeakSet[Unavailable] = weakref.WeakSet()


class Unavailable(Exception):
    def __init__(self) -> None:
        alive.add(self)


@pytest.fixture
def adapter() -> Iterator[MemoryAdapter]:
    name = f"freed-{secrets.token_hex(4)}"
    adapter = MemoryAdapter(name)
    adapter.broker.create_topic("orders", 2)
    records = [ProducerRecord(b"%d" % number, b"%d" % (number % 7)) for number in range(RECORDS)]
    adapter.producer(ProducerSettings()).write("orders", records, lambda error, record: None)
    alive.clear()
    gc.collect()
    gc.disable()
    try:
        yield adapter
    finally:
        gc.enable()
        forget(name)


def fails(message: flux.Message) -> None:
    if message.stage == 0 and message.offset % 3:
        raise Unavailable


class Once(flux.Task):
    topic, group_id, retries, wait = "orders", "billing", 1, 0
    seen = 0

    def call(self, message: flux.Message) -> None:
        type(self).seen += 1
        fails(message)


class OnceAlone(Once):
    concurrency = 1


class OnceAwaited(flux.Task):
    topic, group_id, retries, wait = "orders", "billing", 1, 0
    seen = 0

    async def call(self, message: flux.Message) -> None:
        type(self).seen += 1
        fails(message)


class InPlace(Once):
    in_place_retries, in_place_wait, retries = 1, 0, 0


class Together(flux.BatchTask):
    topic, group_id, retries, wait = "orders", "billing", 1, 0
    max_batch, max_wait = 50, 0.01
    seen = 0

    def call(self, messages: Sequence[flux.Message]) -> None:
        type(self).seen += len(messages)
        for message in messages:
            fails(message)


class SomeOfThem(Together):
    def call(self, messages: Sequence[flux.Message]) -> None:
        type(self).seen += len(messages)
        if not messages[0].stage:
            raise flux.BatchFailure({message: Unavailable() for message in messages if message.offset % 3})


@pytest.mark.parametrize("task", [Once, OnceAlone, OnceAwaited, InPlace, Together, SomeOfThem])
def test_no_error_of_a_call_waits_for_the_garbage_collector(
    adapter: MemoryAdapter, task: type[flux.Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "adapter", adapter)
    monkeypatch.setattr(task, "seen", 0)
    flux.Worker(task, create_topics=True, exit_when_idle=0.2).run()
    assert task.seen > RECORDS  # type: ignore[attr-defined]
    assert len(alive) == 0

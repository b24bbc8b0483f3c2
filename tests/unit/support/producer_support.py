"""Producers on an in-memory cluster, with a machine whose time is a number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flux import config
from flux.adapters.memory import MemoryAdapter, forget
from flux.config import ProducerOptions
from flux.core.errors import DeliveryError
from flux.producer import Producer
from flux.producing.registry import PRODUCERS
from flux.system import SYSTEM
from unit.support.memory_support import ScriptedSystem

OPTIONS = ProducerOptions(max_buffer_size=3, flush_interval=1.0, delivery_timeout=30.0)
FULL_AT_ONCE = ProducerOptions(max_buffer_size=1, max_queue_bytes=1, delivery_timeout=30.0)
"""In an outage the client takes one record, and the buffer one or two more."""


class World:
    def __init__(self) -> None:
        self.system = ScriptedSystem()
        self.adapter = self.cluster("producing", partitions=4)
        self.broker = self.adapter.broker
        config.configure(adapter=self.adapter, producer=OPTIONS)

    def cluster(self, name: str, partitions: int = 1) -> MemoryAdapter:
        forget(name)
        return MemoryAdapter(name, system=self.system, default_partitions=partitions)

    def wait(self, seconds: float) -> None:
        """Time passes, and the flushing thread does what is due."""
        self.system.time += seconds
        PRODUCERS._flushing.tick()

    def recover(self) -> None:
        self.broker.available = True
        self.serve()

    def serve(self) -> None:
        """The clients' own threads run; the flushing one is `tick`, by hand."""
        own = [target for target in self.system.spawned if "_run" not in repr(target)]
        self.system.spawned.clear()
        for target in own:
            target()

    def values(self, topic: str = "awesome", adapter: MemoryAdapter | None = None) -> list[bytes | None]:
        return [record.value() for record in (adapter or self.adapter).broker.records(topic)]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.delenv("FLUX_ADAPTER", raising=False)
    config.reset()
    made = World()
    PRODUCERS.reset(made.system)
    yield made
    PRODUCERS.reset(SYSTEM)
    config.reset()


class AwesomeProducer(Producer):
    topic = "awesome"


class Listening(Producer):
    topic = "awesome"
    heard: list[DeliveryError] = []

    @classmethod
    def on_error(cls, error: DeliveryError) -> None:
        cls.heard.append(error)


def names(error: DeliveryError) -> list[Any]:
    return [record.value for record in error.failed]

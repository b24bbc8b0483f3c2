"""Values on their way: a real producer and a real worker on an in-memory cluster."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import flux
from flux import config
from flux.adapters.memory import MemoryAdapter, forget


class Way:
    """From `serializer` through the topic "orders" to `deserializer`."""

    def __init__(self) -> None:
        self.name = f"serde-{secrets.token_hex(4)}"
        self.adapter = MemoryAdapter(self.name)

    def produce(self, serializer: Any, *values: Any) -> None:
        class Orders(flux.Producer):
            topic = "orders"
            adapter = self.adapter

        Orders.serializer = serializer
        for value in values:
            Orders.produce(value)
        Orders.close(5)

    def work(self, deserializer: Any, call: Callable[[flux.Message], None] | None = None, **settings: Any) -> list[Any]:
        """The values that a task's calls got, until nothing is left."""
        values: list[Any] = []

        @flux.task(topic="orders", group_id="billing", adapter=self.adapter, deserializer=deserializer, **settings)
        def bill(message: flux.Message) -> None:
            values.append(message.value)
            if call is not None:
                call(message)

        assert flux.Worker(bill, create_topics=True, exit_when_idle=0.01).run() == 0
        return values

    def records(self, topic: str = "orders") -> list[bytes | None]:
        return [record.value() for record in self.adapter.broker.records(topic)]

    def dead(self) -> list[tuple[bytes | None, str, str]]:
        """Of each dead letter: the value, `flux-reason` and `flux-error-message`."""
        found = []
        for record in self.adapter.broker.records("orders-billing-dlq"):
            headers = {name: (value or b"").decode() for name, value in record.headers() or ()}
            found.append((record.value(), headers["flux-reason"], headers["flux-error-message"]))
        return found


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    monkeypatch.delenv("FLUX_ADAPTER", raising=False)
    config.reset()
    made = Way()
    yield made
    forget(made.name)
    config.reset()

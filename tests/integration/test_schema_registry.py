"""Values with a schema, on a real schema registry: its outage pauses a task, and it refuses an incompatible schema.

The task's records are in memory, so that its waits are the kit's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any, TypedDict

import pytest
from brokers import NoBroker
from brokers.registry import Registry, running_registry

import flux
from flux.serde import avro, json_schema
from flux.testing import Kit, kit

for package in ("authlib", "cachetools", "fastavro", "jsonschema"):
    pytest.importorskip(package)

clients: Any = import_module("confluent_kafka.schema_registry")

pytestmark = pytest.mark.timeout(400)
"""The first run fetches the registry."""


class Order(TypedDict):
    id: str
    cents: int


class Both(TypedDict):
    id: str
    cents: int
    currency: str


FIELDS = [{"name": "id", "type": "string"}, {"name": "cents", "type": "int"}]
CURRENCY = {"name": "currency", "type": "string", "default": "EUR"}


def of_avro(*fields: object) -> str:
    return json.dumps({"type": "record", "name": "Order", "fields": fields})


AVRO = of_avro(*FIELDS)
JSON = json.dumps(
    {
        "title": "Order",
        "type": "object",
        "properties": {"id": {"type": "string"}, "cents": {"type": "integer"}},
        "required": ["id", "cents"],
    }
)
FORMATS = {"avro": (avro, AVRO), "json": (json_schema, JSON)}


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    try:
        with running_registry() as found:
            yield found
    except NoBroker as reason:
        pytest.skip(f"NO SCHEMA REGISTRY: {reason}")


@pytest.fixture
def flux_kit() -> Iterator[Kit]:
    with kit() as made:
        yield made


def task(topic: str, values: Any) -> tuple[Any, list[Any]]:
    seen: list[Any] = []

    def call(self: Any, message: flux.Message[Any]) -> None:
        seen.append(message.value)

    body = {"topic": topic, "group_id": "g", "retries": 1, "values": values, "call": call}
    return type("Charge", (flux.Task,), body), seen


@pytest.mark.parametrize("name", FORMATS)
def test_values_come_back_and_their_schema_is_registered(name: str, registry: Registry, flux_kit: Kit) -> None:
    values, schema = FORMATS[name]
    charge, seen = task(f"{name}-orders", values(Order, registry=registry.url, schema=schema))
    charge.enqueue({"id": "1", "cents": 5})
    assert flux_kit.run(charge).done == 1
    assert seen == [{"id": "1", "cents": 5}]
    client = clients.SchemaRegistryClient({"url": registry.url})
    assert f"{name}-orders-value" in client.get_subjects()


def test_a_later_schema_reads_what_an_earlier_one_wrote(registry: Registry, flux_kit: Kit) -> None:
    writer, _ = task("grown", avro(Order, registry=registry.url, schema=AVRO))
    reader, seen = task("grown", avro(Both, registry=registry.url, schema=of_avro(*FIELDS, CURRENCY)))
    writer.enqueue({"id": "1", "cents": 5})
    assert flux_kit.run(reader).done == 1
    assert seen == [{"id": "1", "cents": 5, "currency": "EUR"}]


def test_an_incompatible_schema_is_refused_where_it_is_written_with(registry: Registry, flux_kit: Kit) -> None:
    client = clients.SchemaRegistryClient({"url": registry.url})
    before, _ = task("refused", avro(Order, registry=registry.url, schema=AVRO))
    before.enqueue({"id": "1", "cents": 5})
    client.set_config("refused-value", clients.ServerConfig(compatibility=clients.ConfigCompatibilityLevel.BACKWARD))
    narrower = of_avro({"name": "id", "type": "int"})
    after, _ = task("refused", avro(dict[str, int], registry=registry.url, schema=narrower))
    with pytest.raises(Exception, match=r"409|[Ii]ncompatible"):
        after.enqueue({"id": 1})
    assert len(client.get_versions("refused-value")) == 1


def test_a_record_that_does_not_fit_its_schema_is_a_dead_letter(registry: Registry, flux_kit: Kit) -> None:
    charge, seen = task("broken", avro(Order, registry=registry.url, schema=AVRO))
    charge.enqueue({"id": "1", "cents": 5})
    flux_kit.produce("broken", b"\0\0\0\0\1\2")
    flux_kit.run(charge)
    [dead] = flux_kit.dead_letters(charge)
    assert dict(dead.headers)["flux-reason"] == b"undecodable"
    assert len(seen) == 1


def test_an_outage_of_the_registry_pauses_the_task_and_moves_no_record(registry: Registry, flux_kit: Kit) -> None:
    writer, _ = task("outage", avro(Order, registry=registry.url, schema=AVRO))
    writer.enqueue({"id": "1", "cents": 5})
    quick = {"url": registry.url, "timeout": 2, "max.retries": 0}
    charge, seen = task("outage", avro(Order, registry=quick, schema=AVRO))
    registry.stop()
    try:
        paused = flux_kit.run(charge)
        assert [type(failure.error) for failure in flux_kit.failures] == [flux.Pause]
    finally:
        registry.start()
    assert (paused.done, paused.failed, paused.retried, paused.dead, seen) == (0, 0, 0, 0, [])
    writer, _ = task("outage", avro(Order, registry=registry.url, schema=AVRO))
    writer.enqueue({"id": "2", "cents": 6})  # the registry has lost its schemas, and gives the same number again
    flux_kit.run_to_the_end(charge)
    assert [value["id"] for value in seen] == ["1", "2"]

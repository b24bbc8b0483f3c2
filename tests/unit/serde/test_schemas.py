"""Against confluent-kafka's own registry in memory, `mock://`: a client is one registry."""

from __future__ import annotations

import dataclasses
import enum
import json
import logging
import sys
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from typing import Any

import attrs
import pytest
from pydantic import BaseModel

import flux
from flux import serde
from flux.testing import Kit
from unit.serde.test_registry import PROTOBUF

for package in ("authlib", "cachetools", "cattrs", "fastavro", "google.protobuf", "jsonschema"):
    pytest.importorskip(package)

schemas: Any = import_module("confluent_kafka.schema_registry")
SECRET = "hunter2"
WHEN = datetime(2026, 11, 30, 12, tzinfo=UTC)
PRICE = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
FIELDS = [
    {"name": "id", "type": "string"},
    {"name": "placed", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "price", "type": PRICE},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["new", "used"]}},
    {"name": "tags", "type": {"type": "array", "items": "string"}},
]
AVRO = json.dumps({"type": "record", "name": "Order", "fields": FIELDS})
INCOMPATIBLE = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]})
JSON = json.dumps(
    {"title": "Order", "type": "object", "properties": {"id": {"type": "string"}, "price": {"type": "string"}}}
)


class Kind(enum.Enum):
    NEW = "new"
    USED = "used"


class Model(BaseModel):
    id: str
    placed: datetime = WHEN
    price: Decimal = Decimal("1.10")
    kind: Kind = Kind.NEW
    tags: set[str] = {"a"}


@attrs.frozen
class Attrs:
    id: str
    placed: datetime = WHEN
    price: Decimal = Decimal("1.10")
    kind: Kind = Kind.NEW
    tags: frozenset[str] = frozenset("a")


@dataclasses.dataclass
class Small:
    """What JSON can hold without a converter of one's own."""

    id: str
    price: str = "1.10"


def struct() -> Any:
    msgspec: Any = pytest.importorskip("msgspec")
    fields = [("id", str), ("placed", datetime, WHEN), ("price", Decimal, Decimal("1.10")), ("kind", Kind, Kind.NEW)]
    return msgspec.defstruct("Struct", [*fields, ("tags", frozenset[str], frozenset("a"))])


@pytest.fixture
def client() -> Any:
    return schemas.SchemaRegistryClient.new_client({"url": "mock://"})


def classes_for(kind: Any, given: serde.Values[Any]) -> tuple[Any, Any, list[Any]]:
    got: list[Any] = []

    class Orders(flux.Producer[kind]):
        topic = "orders"
        values = given

    class Billing(flux.Task[kind]):
        topic = "orders"
        group_id = "billing"
        retries = 1
        values = given

        def call(self, message: flux.Message[Any]) -> None:
            got.append(message.value)

    return Orders, Billing, got


@pytest.mark.parametrize("number", range(3))
def test_avro_is_written_and_read_by_the_library_of_the_type(flux_kit: Kit, client: Any, number: int) -> None:
    kind: Any = (lambda: Model, lambda: Attrs, struct)[number]()
    orders, billing, got = classes_for(kind, serde.avro(kind, registry=client, schema=AVRO))
    orders.produce(kind(id="1"))
    billing.enqueue(kind(id="2"))
    assert flux_kit.run(billing).done == 2
    assert sorted(got, key=lambda each: each.id) == [kind(id="1"), kind(id="2")]
    assert client.get_subjects() == ["orders-value"]


@pytest.mark.parametrize("kind", [Model, Small])
def test_json_with_a_schema_is_written_and_read_by_the_library_of_the_type(
    flux_kit: Kit, client: Any, kind: Any
) -> None:
    orders, billing, got = classes_for(kind, serde.json_schema(kind, registry=client, schema=JSON))
    orders.produce(kind(id="1"))
    assert flux_kit.run(billing).done == 1
    assert got == [kind(id="1")]


def test_protobuf_messages_are_written_and_read(flux_kit: Kit, client: Any) -> None:
    orders, billing, got = classes_for(PROTOBUF, serde.protobuf(PROTOBUF, registry=client))
    orders.produce(PROTOBUF(id="1"))
    assert flux_kit.run(billing).done == 1
    assert got == [PROTOBUF(id="1")]


@pytest.mark.parametrize("make", [serde.avro, serde.json_schema])
def test_without_a_schema_the_latest_one_of_the_topic_is_used(flux_kit: Kit, client: Any, make: Any) -> None:
    kind, text, form = (Attrs, AVRO, "AVRO") if make is serde.avro else (Small, JSON, "JSON")
    orders, billing, got = classes_for(kind, make(kind, registry=client))
    with pytest.raises(schemas.SchemaRegistryError, match="404"):
        orders.produce(kind(id="1"))
    client.register_schema("orders-value", schemas.Schema(text, form))
    orders.produce(kind(id="1"))
    assert flux_kit.run(billing).done == 1
    assert got == [kind(id="1")]


def test_what_is_no_instance_is_refused_before_it_is_written(flux_kit: Kit, client: Any) -> None:
    for given in (
        serde.avro(Attrs, registry=client, schema=AVRO),
        serde.json_schema(Small, registry=client, schema=JSON),
        serde.protobuf(PROTOBUF, registry=client),
    ):
        orders, _, _ = classes_for(Any, given)
        with pytest.raises(TypeError, match="was expected, not of dict"):
            orders.produce({"id": "1"})


def test_what_does_not_fit_the_schema_is_refused_without_its_values(flux_kit: Kit, client: Any) -> None:
    orders, _, _ = classes_for(Attrs, serde.avro(Attrs, registry=client, schema=INCOMPATIBLE))
    with pytest.raises(ValueError, match="this Attrs does not fit the schema of orders") as raised:
        orders.produce(Attrs(SECRET))
    assert SECRET not in repr(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("make", [serde.avro, serde.json_schema])
def test_what_another_schema_wrote_is_a_dead_letter_and_none_of_its_values_leave_it(
    flux_kit: Kit, client: Any, caplog: pytest.LogCaptureFixture, make: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    if make is serde.avro:
        fields = [{"name": "id", "type": "string"}, {"name": "price", "type": "string"}]
        write: Any = serde.registry.avro_serializer(
            client, json.dumps({"type": "record", "name": "Order", "fields": fields}), "orders"
        )
        given: Any = serde.avro(Attrs, registry=client)
    else:
        write = serde.registry.json_schema_serializer(client, "{}", "orders")
        given = serde.json_schema(Small, registry=client, schema=JSON)
    _, billing, got = classes_for(Attrs, given)
    flux_kit.produce("orders", write({"id": SECRET, "price": SECRET} if make is serde.avro else {"id": [SECRET]}))
    flux_kit.run(billing)
    letter = flux_kit.dead_letters(billing).one()
    assert (letter.reason, got) == ("undecodable", [])
    assert SECRET not in repr(letter.headers) + caplog.text


def test_tombstones_are_none_where_the_type_says_so(flux_kit: Kit, client: Any) -> None:
    given = serde.avro(Attrs, registry=client, schema=AVRO)
    _, billing, _ = classes_for(Attrs, given)
    flux_kit.produce("orders", None)
    flux_kit.run(billing)
    assert flux_kit.dead_letters(billing).one().reason == "tombstone"
    orders, with_none, got = classes_for(Attrs | None, given)
    orders.produce(None)
    with_none.group_id = "other"
    assert flux_kit.run(with_none).done == 2
    assert got == [None, None]


def test_an_outage_of_the_registry_moves_no_record(flux_kit: Kit, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = serde.avro(Attrs, registry=client, schema=AVRO)
    orders, billing, got = classes_for(Attrs, given)
    orders.produce(Attrs("1"))
    orders.flush()
    get_schema, failures = client.get_schema, [503]

    def away_at_first(*args: Any) -> Any:
        if failures:
            raise schemas.SchemaRegistryError(failures.pop(), 50003, "no")
        return get_schema(*args)

    monkeypatch.setattr(client, "get_schema", away_at_first)
    assert flux_kit.run_to_the_end(billing).done == 1
    assert got == [Attrs("1")]
    assert flux_kit.dead_letters(billing) == []
    assert failures == []


def test_what_cannot_work_is_refused_when_it_is_made(monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match="no client of a schema registry"):
        serde.avro(Attrs, registry={"uri": "mock://"})
    with pytest.raises(flux.ConfigurationError, match="cannot be read"):
        serde.avro(complex, registry=client)
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)
    with pytest.raises(flux.ConfigurationError, match=r'pip install "super-flux\[schema-registry\]"'):
        serde.protobuf(PROTOBUF, registry="mock://")

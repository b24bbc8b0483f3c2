"""Against confluent-kafka's own registry in memory, `mock://`: a client is one registry."""

from __future__ import annotations

import json
import struct
import sys
from importlib import import_module
from typing import Any

import attrs
import pytest

import flux
from flux.core.errors import ConfigurationError
from flux.serde import registry
from unit.support.serde_support import Way, way

for package in ("authlib", "cachetools", "fastavro", "google.protobuf", "jsonschema"):
    pytest.importorskip(package)

schemas: Any = import_module("confluent_kafka.schema_registry")
SerializationError: Any = import_module("confluent_kafka.serialization").SerializationError

__all__ = ["way"]

ID = {"name": "id", "type": "string"}
AVRO = json.dumps({"type": "record", "name": "Order", "fields": [ID]})
LATER_AVRO = json.dumps(
    {"type": "record", "name": "Order", "fields": [ID, {"name": "count", "type": "int", "default": 7}]}
)
JSON = json.dumps({"title": "Order", "type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]})
UNKNOWN = b"\0\0\0\x03\xe7\0....."
"""Of a schema number 999."""


def message_class() -> Any:
    """What protoc makes of `message Order { string id = 1; }`."""
    descriptors: Any = import_module("google.protobuf.descriptor_pb2")
    messages: Any = import_module("google.protobuf.message_factory")
    file = descriptors.FileDescriptorProto(name="orders.proto", package="shop", syntax="proto3")
    file.message_type.add(name="Order").field.add(name="id", number=1, type=9, label=1)
    pool = messages.descriptor_pool.DescriptorPool()
    pool.Add(file)
    return messages.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


PROTOBUF = message_class()


@pytest.fixture
def client() -> Any:
    return schemas.SchemaRegistryClient.new_client({"url": "mock://"})


@pytest.fixture(params=["avro", "json", "protobuf"])
def pair(request: pytest.FixtureRequest, client: Any) -> tuple[Any, Any, Any]:
    """A serializer, its deserializer and a value."""
    if request.param == "avro":
        write: Any = registry.avro_serializer(client, AVRO, "orders")
        return write, registry.avro_deserializer(client, "orders"), {"id": "1"}
    if request.param == "json":
        write = registry.json_schema_serializer(client, JSON, "orders")
        return write, registry.json_schema_deserializer(client, "orders"), {"id": "1"}
    write = registry.protobuf_serializer(client, PROTOBUF, "orders")
    return write, registry.protobuf_deserializer(client, PROTOBUF, "orders"), PROTOBUF(id="1")


def test_a_value_comes_back_and_its_schema_is_registered_for_the_topic(client: Any, pair: Any) -> None:
    write, read, value = pair
    data = write(value)
    assert data[0] == 0
    assert read(data) == value
    assert client.get_subjects() == ["orders-value"]


def test_a_tombstone_is_none_both_ways(pair: Any) -> None:
    write, read, _ = pair
    assert write(None) is None
    assert read(None) is None


@pytest.mark.parametrize("data", [b"", b"nope", b"\0", b'{"id":"1"}'])
def test_what_no_registry_serializer_wrote_is_refused(pair: Any, data: bytes) -> None:
    with pytest.raises((SerializationError, EOFError, struct.error)):
        pair[1](data)


def test_a_schema_that_the_registry_does_not_know_is_asked_for_again_later(pair: Any) -> None:
    with pytest.raises(flux.Retry, match=r"does not know the schema: .*404"):
        pair[1](UNKNOWN)


@pytest.mark.parametrize("kind", ["avro", "json"])
def test_what_does_not_fit_the_schema_is_refused_before_it_is_written(client: Any, kind: str) -> None:
    if kind == "avro":
        write = registry.avro_serializer(client, AVRO, "orders")
    else:
        write = registry.json_schema_serializer(client, JSON, "orders")
    for wrong in ({}, {"id": 7}):
        with pytest.raises((TypeError, ValueError, SerializationError)):
            write(wrong)


def test_json_that_does_not_fit_the_schema_is_refused_when_it_is_read(client: Any) -> None:
    data = registry.json_schema_serializer(client, JSON, "orders")({"id": "1"}) or b""
    with pytest.raises(SerializationError, match="is not of type 'string'"):
        registry.json_schema_deserializer(client, "orders")(data.replace(b'"1"', b"1"))


def test_json_with_a_schema_is_as_strict_as_without_one(client: Any) -> None:
    write: Any = registry.json_schema_serializer(client, JSON, "orders")
    data = write({"id": "1"}) or b""
    read = registry.json_schema_deserializer(client, "orders")
    for wrong in (b'{"id":"1","n":NaN}', b'{"id":"\\ud800"}', '{"id":"1"}'.encode("utf-16")):
        with pytest.raises((ValueError, SerializationError)):
            read(data[:5] + wrong)
    with pytest.raises((ValueError, SerializationError)):
        write({"id": "1", "n": float("nan")})


@attrs.define
class Order:
    id: str


def test_instances_are_made_of_what_was_read(client: Any) -> None:
    write = registry.avro_serializer(client, AVRO, "orders", to_dict=attrs.asdict)
    read = registry.avro_deserializer(client, "orders", from_dict=lambda found: Order(**found))
    assert read(write(Order("1"))) == Order("1")
    write = registry.json_schema_serializer(client, JSON, "orders", to_dict=attrs.asdict)
    read = registry.json_schema_deserializer(client, "orders", from_dict=lambda found: Order(**found))
    assert read(write(Order("2"))) == Order("2")


def test_a_record_is_read_into_the_reader_s_schema(client: Any) -> None:
    data = registry.avro_serializer(client, AVRO, "orders")({"id": "1"})
    read = registry.avro_deserializer(client, "orders", schema=LATER_AVRO)
    assert read(data) == {"id": "1", "count": 7}


def test_config_is_confluent_kafka_s(client: Any) -> None:
    write = registry.avro_serializer(client, AVRO, "orders", config={"auto.register.schemas": False})
    with pytest.raises(schemas.SchemaRegistryError, match="404"):
        write({"id": "1"})


def test_a_registry_is_a_url_a_configuration_or_a_client(client: Any) -> None:
    for given in ("mock://", {"url": "mock://", "max.retries": 1}, client):
        data = registry.avro_serializer(given, AVRO, "orders")({"id": "1"}) or b""
        assert data[5:] == b"\x021"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: registry.avro_serializer("mock://", "{", "orders"), "the schema for orders cannot be used"),
        (lambda: registry.avro_serializer("mock://", AVRO, ""), "give the name of the task's main topic"),
        (lambda: registry.avro_deserializer("mock://", "orders", config={"x": 1}), "Unrecognized properties: x"),
        (lambda: registry.protobuf_serializer("mock://", dict, "orders"), "the schema for orders cannot be used"),
        (lambda: registry.avro_deserializer({"uri": "mock://"}, "orders"), "no client of a schema registry"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(make: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()


def test_a_password_in_a_registry_s_url_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as raised:
        registry.avro_deserializer("htp://alice:hunter2@registry", "orders")
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_without_the_packages_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry.avro", None)
    with pytest.raises(ConfigurationError, match=r'pip install "super-flux\[schema-registry\]"'):
        registry.avro_deserializer("mock://", "orders")


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_registry_that_refuses_is_not_the_record_s_fault(
    client: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def refuse(*_: Any) -> Any:
        raise schemas.SchemaRegistryError(status, 50001, "no")

    monkeypatch.setattr(client, "get_schema", refuse)
    with pytest.raises(flux.Pause, match=f"the schema registry refused: .*{status}"):
        registry.avro_deserializer(client, "orders")(UNKNOWN)


def test_a_registry_that_is_away_is_not_the_record_s_fault() -> None:
    read = registry.avro_deserializer({"url": "http://127.0.0.1:1", "max.retries": 0}, "orders")
    with pytest.raises(flux.Pause, match="the schema registry is unavailable: ConnectError"):
        read(UNKNOWN)


def test_a_task_gets_what_was_produced_and_what_cannot_be_read_is_a_dead_letter(way: Way, pair: Any) -> None:
    write, read, value = pair
    way.produce(write, value, None)
    way.produce(None, b"nope", UNKNOWN)
    assert way.work(read, retries=1, wait=0) == [value, None]
    assert [(data, reason) for data, reason, _ in way.dead()] == [(b"nope", "undecodable"), (UNKNOWN, "exhausted")]


def test_a_record_whose_schema_is_known_later_goes_through_the_retries(
    way: Way, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    way.produce(registry.avro_serializer(client, AVRO, "orders"), {"id": "1"})
    get_schema, failures = client.get_schema, [40403]

    def unknown_at_first(*args: Any) -> Any:
        if failures:
            raise schemas.SchemaRegistryError(404, failures.pop(), "Schema not found")
        return get_schema(*args)

    monkeypatch.setattr(client, "get_schema", unknown_at_first)
    assert way.work(registry.avro_deserializer(client, "orders"), retries=1, wait=0) == [{"id": "1"}]
    assert len(way.records("orders-billing-try-1")) == 1
    assert way.dead() == []


def test_a_retried_record_is_read_by_the_main_topic_s_schema(way: Way, client: Any) -> None:
    way.produce(registry.avro_serializer(client, AVRO, "orders"), {"id": "1"})
    client.register_schema("orders-value", schemas.Schema(LATER_AVRO, "AVRO"))
    tried: list[tuple[int, Any]] = []

    def call(message: flux.Message) -> None:
        tried.append((message.stage, message.value))
        if message.stage == 0:
            raise ConnectionError

    way.work(registry.avro_deserializer(client, "orders", config={"use.latest.version": True}), call, retries=1, wait=0)
    later = {"id": "1", "count": 7}
    assert tried == [(0, later), (1, later)]


def test_a_record_that_came_while_the_registry_was_away_is_tried_again(
    way: Way, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    way.produce(registry.avro_serializer(client, AVRO, "orders"), {"id": "1"})
    get_schema, failures = client.get_schema, [503]

    def away_at_first(*args: Any) -> Any:
        if failures:
            raise schemas.SchemaRegistryError(failures.pop(), 50003, "no")
        return get_schema(*args)

    monkeypatch.setattr(client, "get_schema", away_at_first)
    assert way.work(registry.avro_deserializer(client, "orders"), retries=1, wait=0) == [{"id": "1"}]
    assert way.dead() == []

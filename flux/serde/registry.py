"""Values by schema, as Confluent's Schema Registry keeps them: Avro, JSON Schema and Protobuf.

Thin wrappers of confluent-kafka's own serializers, which are documented there; `config` is theirs. Needs the extra
`schema-registry`, which is imported by the first of these functions that is called.

`registry` is a URL, confluent-kafka's configuration of a client, or a client, which several may share. `topic` is the
task's main topic: it names the subject (`topic`-value), in the retry topics too. Schemas are asked for once and kept.

Each function raises ConfigurationError for what cannot work. A serializer raises what confluent-kafka's raises, for a
registry that is away too. A deserializer raises `Pause` when the registry is away or refuses the login, which is not
the record's fault, `Retry` for a schema that the registry does not know, as one of its followers learns of a fresh one
later, and confluent-kafka's error for all else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flux.core.engine.verdicts import Pause, Retry
from flux.core.errors import ConfigurationError
from flux.serde.json import json_deserializer, json_serializer

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

    Registry = str | Mapping[str, Any] | SchemaRegistryClient

Serializer = Callable[[Any], bytes | None]
Deserializer = Callable[[bytes | None], Any]
Config = Mapping[str, Any] | None

_REFUSED = {401, 403, 407, 408, 429}
"""HTTP status codes that, like those from 500 on, say nothing about the schema that was asked for."""
_UNKNOWN = 404


def avro_serializer(
    registry: Registry,
    schema: str | Schema,
    topic: str,
    *,
    to_dict: Callable[[Any], Any] | None = None,
    config: Config = None,
) -> Serializer:
    """value -> Avro. `to_dict` makes what Avro writes of a value, such as a dict of an instance."""

    def make() -> Any:
        from confluent_kafka.schema_registry.avro import AvroSerializer

        return AvroSerializer(_client(registry), schema, _without_context(to_dict), _dict(config))

    return _bound(make, topic)


def avro_deserializer(
    registry: Registry,
    topic: str,
    *,
    schema: str | Schema | None = None,
    from_dict: Callable[[Any], Any] | None = None,
    config: Config = None,
) -> Deserializer:
    """Avro -> value. `schema`: what is read into; None: what the record was written by. `from_dict` makes the value of
    what Avro read."""

    def make() -> Any:
        from confluent_kafka.schema_registry.avro import AvroDeserializer

        return AvroDeserializer(_client(registry), schema, _without_context(from_dict), conf=_dict(config))

    return _patient(_bound(make, topic))


def json_schema_serializer(
    registry: Registry,
    schema: str | Schema,
    topic: str,
    *,
    to_dict: Callable[[Any], Any] | None = None,
    config: Config = None,
) -> Serializer:
    """value -> JSON that fits `schema`. `to_dict` makes what JSON can hold of a value."""

    def make() -> Any:
        from confluent_kafka.schema_registry.json_schema import JSONSerializer

        return JSONSerializer(
            schema, _client(registry), _without_context(to_dict), _dict(config), json_encode=json_serializer
        )

    return _bound(make, topic)


def json_schema_deserializer(
    registry: Registry,
    topic: str,
    *,
    schema: str | Schema | None = None,
    from_dict: Callable[[Any], Any] | None = None,
    config: Config = None,
) -> Deserializer:
    """JSON -> value, once it fits `schema`; None: the schema that the record was written by. `from_dict` makes the
    value of what JSON held."""

    def make() -> Any:
        from confluent_kafka.schema_registry.json_schema import JSONDeserializer

        return JSONDeserializer(
            schema, _without_context(from_dict), _client(registry), _dict(config), json_decode=json_deserializer
        )

    return _patient(_bound(make, topic))


def protobuf_serializer(registry: Registry, message_type: Any, topic: str, *, config: Config = None) -> Serializer:
    """Message -> Protobuf. `message_type`: a class that protoc made."""

    def make() -> Any:
        from confluent_kafka.schema_registry.protobuf import ProtobufSerializer

        return ProtobufSerializer(message_type, _client(registry), _dict(config))

    return _bound(make, topic)


def protobuf_deserializer(registry: Registry, message_type: Any, topic: str, *, config: Config = None) -> Deserializer:
    """Protobuf -> Message. `message_type`: a class that protoc made, which every record is read as."""

    def make() -> Any:
        from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer

        return ProtobufDeserializer(message_type, _dict(config), _client(registry))

    return _patient(_bound(make, topic))


def _client(registry: Registry) -> SchemaRegistryClient:
    from confluent_kafka.schema_registry import SchemaRegistryClient

    if isinstance(registry, SchemaRegistryClient):
        return registry
    try:
        return SchemaRegistryClient.new_client({"url": registry} if isinstance(registry, str) else dict(registry))
    except Exception as error:
        raise ConfigurationError(f"no client of a schema registry can be made: {_without_secrets(error)}") from None


def _bound(make: Callable[[], Any], topic: str) -> Callable[[Any], Any]:
    """What `make` makes, for values of `topic`."""
    if not isinstance(topic, str) or not topic:
        raise ConfigurationError("a schema belongs to a topic: give the name of the task's main topic")
    try:
        from confluent_kafka.serialization import MessageField, SerializationContext

        convert = make()
    except ConfigurationError:
        raise
    except ImportError as error:
        raise ConfigurationError('schemas need packages: pip install "super-flux[schema-registry]"') from error
    except Exception as error:
        raise ConfigurationError(f"the schema for {topic} cannot be used: {error}") from error

    def call(value: Any) -> Any:
        return convert(value, SerializationContext(topic, MessageField.VALUE))

    return call


def _patient(deserialize: Deserializer) -> Deserializer:
    from confluent_kafka.schema_registry.error import OAuthTokenError, SchemaRegistryError

    try:  # in confluent-kafka's own order
        from httpx2 import TransportError
    except ImportError:
        from httpx import TransportError  # type: ignore[import-not-found, no-redef]

    def call(data: bytes | None) -> Any:
        try:
            return deserialize(data)
        except SchemaRegistryError as error:
            if error.http_status_code in _REFUSED or error.http_status_code >= 500:
                raise Pause(reason=f"the schema registry refused: {_without_secrets(error)}") from error
            if error.http_status_code == _UNKNOWN:
                raise Retry(f"the schema registry does not know the schema: {_without_secrets(error)}") from error
            raise
        except (TransportError, OAuthTokenError) as error:
            raise Pause(reason=f"the schema registry is away: {_without_secrets(error)}") from error

    return call


def _without_secrets(error: Exception) -> str:
    """An error may show the registry's URL, which may hold a password."""
    return type(error).__name__ if "@" in str(error) else f"{type(error).__name__}: {error}"


def _without_context(convert: Callable[[Any], Any] | None) -> Callable[[Any, Any], Any] | None:
    return None if convert is None else lambda value, _: convert(value)


def _dict(config: Config) -> dict[str, Any] | None:
    return None if config is None else dict(config)

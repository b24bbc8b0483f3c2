"""Serializers and deserializers of values. See docs/how-to/values.md.

A serializer is value -> bytes or None, and is set on a producer class; a deserializer is bytes or None -> value, and is
set on a task class. A tombstone is None on both sides. An exception of a serializer goes to the caller of `produce`; a
record at which a deserializer raises is a dead letter, reason `undecodable`.
"""

from flux.serde import registry
from flux.serde.models import json_deserializer, json_serializer, model_converter, model_deserializer, model_serializer
from flux.serde.schemas import avro, json_schema, protobuf
from flux.serde.values import Values, json

__all__ = [
    "Values",
    "avro",
    "json",
    "json_deserializer",
    "json_schema",
    "json_serializer",
    "model_converter",
    "model_deserializer",
    "model_serializer",
    "protobuf",
    "registry",
]

"""Values: what turns them into a record's bytes, and back. See docs/how-to/values.md.

A serializer is value -> bytes or None and belongs on a producer class; a deserializer is bytes or None -> value and
belongs on a task class. A tombstone (None) is None on both sides. What a serializer refuses is raised to the caller of
`produce`; a record that a deserializer refuses is a dead letter, reason `undecodable`.
"""

from flux.serde import registry
from flux.serde.json import json_deserializer, json_serializer
from flux.serde.models import model_converter, model_deserializer, model_serializer

__all__ = [
    "json_deserializer",
    "json_serializer",
    "model_converter",
    "model_deserializer",
    "model_serializer",
    "registry",
]

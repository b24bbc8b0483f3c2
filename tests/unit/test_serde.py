from __future__ import annotations

import subprocess
import sys

import pytest
from serde_support import Way, way

from flux.serde import json_deserializer, json_serializer

__all__ = ["way"]


def test_json_goes_there_and_back_as_utf_8() -> None:
    assert json_serializer({"ä": [1, None]}) == '{"ä":[1,null]}'.encode()
    assert json_deserializer(json_serializer({"ä": [1, None]})) == {"ä": [1, None]}


def test_a_tombstone_is_read_as_none() -> None:
    assert json_deserializer(None) is None


@pytest.mark.parametrize("value", [object(), float("nan"), "\ud800"])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        json_serializer(value)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        json_deserializer(b"nope")


def test_a_task_gets_what_was_produced_and_what_is_no_json_is_a_dead_letter(way: Way) -> None:
    way.produce(json_serializer, {"id": 1}, None)
    way.produce(None, b"nope")
    assert way.work(json_deserializer) == [{"id": 1}, None]
    assert way.dead() == [(b"nope", "undecodable", "Expecting value: line 1 column 1 (char 0)")]


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    heavy = "cattrs confluent_kafka fastavro jsonschema google.protobuf httpx2 authlib"
    program = f"import flux.serde, sys; print([name for name in {heavy.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"

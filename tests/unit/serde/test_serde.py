from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.serde import json_deserializer, json_serializer
from unit.support.serde_support import Way, way

__all__ = ["way"]


def deep() -> object:
    value: list[object] = []
    for _ in range(200_000):
        value = [value]
    return value


def test_json_goes_there_and_back_as_utf_8() -> None:
    assert json_serializer({"ä": [1, None]}) == '{"ä":[1,null]}'.encode()
    assert json_deserializer(json_serializer({"ä": [1, None]})) == {"ä": [1, None]}


def test_a_tombstone_is_read_as_none() -> None:
    assert json_deserializer(None) is None


@pytest.mark.parametrize("value", [object(), float("nan"), float("-inf"), [{"a": "\ud800"}], {float("nan"): 1}, deep()])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        json_serializer(value)


@pytest.mark.parametrize(
    "data",
    [
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-16-le"),
        '{"a": 1}'.encode("utf-32"),
        b"\xef\xbb\xbf1",
        b"1\x00",
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b"NaN",
        b'{"a": [-Infinity]}',
        b"1e999",
        b"-" + b"9" * 400 + b".0",
        b'"\\ud800"',
        b'{"\\uDFFF": 1}',
        b"9" * 5000,
        b"[" * 200_000,
        b"",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_json_in_utf_8_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        json_deserializer(data)


@pytest.mark.parametrize("text", ['"\\ud83d\\ude00"', '"\\\\ud800"', "1e308", "-0.0", "12345678901234567890"])
def test_what_only_looks_like_that_is_read(text: str) -> None:
    assert json_deserializer(text.encode()) == json.loads(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_is_written_is_read_as_it_was(value: object) -> None:
    try:
        data = json_serializer(value)
    except ValueError:
        return
    assert json_deserializer(data) == value


@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode()))
def test_what_is_read_can_be_written_again(data: bytes) -> None:
    try:
        value = json_deserializer(data)
    except ValueError:
        return
    assert json_deserializer(json_serializer(value)) == value


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

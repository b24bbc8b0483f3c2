from __future__ import annotations

import pytest

from flux.serde import json_deserializer, json_serializer


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

"""Records as lines of JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.adapters.memory.log import MemoryRecord
from flux.core import flux_headers
from flux.core.message import Message
from flux.core.ports import ProducerRecord
from flux.operate.dlq.exchange import from_line, to_line

data = st.none() | st.binary(max_size=50) | st.text(max_size=50).map(str.encode)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


def line_of(outgoing: ProducerRecord, stamp: int = 5) -> str:
    record = MemoryRecord("t", outgoing.partition or 0, 3, outgoing, (1, stamp))
    return to_line(Message.of(record, record.value(), flux_headers.of_main_topic()))


@given(data, data, st.lists(st.tuples(names, data), max_size=4), st.integers(0, 9), st.integers(1, 2**62))
def test_a_record_comes_back_byte_for_byte(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], partition: int, stamp: int
) -> None:
    outgoing = ProducerRecord(value, key, headers, partition, stamp)
    line = line_of(outgoing, stamp)
    assert len(line.splitlines()) == 1 or "\n" not in line
    assert from_line(line.encode(), 10) == outgoing


def test_text_is_text_and_other_bytes_are_base64() -> None:
    line = json.loads(line_of(ProducerRecord('{"a": "ä"}'.encode(), b"\xff", [("h", b"x"), ("h", None)])))
    assert line["value"] == '{"a": "ä"}'
    assert line["key"] == {"base64": "/w=="}
    assert line["headers"] == [["h", "x"], ["h", None]]
    assert (line["topic"], line["partition"], line["offset"], line["timestamp"]) == ("t", 0, 3, 5)


def test_a_topic_with_fewer_partitions_takes_the_record_too() -> None:
    assert from_line(line_of(ProducerRecord(b"", partition=7)), 4).partition == 3


def test_headers_that_cannot_be_read_are_said_to_be_missing() -> None:
    assert json.loads(line_of(ProducerRecord(b"", headers=[("\udcff", b"")])))["headers_readable"] is False


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a record"),
        (b"{}", "not a record"),
        (b'{"key": null}', "not a record"),
        (b'{"key": 1, "value": null}', "key is 1"),
        (b'{"key": null, "value": {"base64": "?"}}', "value is"),
        (b'{"key": null, "value": {"base64": 7}}', "value is"),
        (b'{"key": null, "value": "\\ud800"}', "value is"),
        (b'{"key": null, "value": null, "headers": {}}', "headers are"),
        (b'{"key": null, "value": null, "headers": [["a"]]}', "a header is"),
        (b'{"key": null, "value": null, "headers": [["a", 1]]}', "header"),
        (b'{"key": null, "value": null, "partition": -1}', "partition is -1"),
        (b'{"key": null, "value": null, "partition": true}', "partition is true"),
        (b'{"key": null, "value": null, "timestamp": "now"}', "timestamp is"),
    ],
)
def test_what_is_no_record_is_refused_in_a_few_words(line: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        from_line(line, 1)
    assert len(str(raised.value)) < 200

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from flux.core.outbox.rows import LANES, dump_headers, key_hash, lane_of, load_headers

VALUES = st.none() | st.binary() | st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), VALUES)))
def test_headers_are_read_as_they_were_stored(headers: list[tuple[str, bytes | None]]) -> None:
    assert load_headers(dump_headers(headers)) == headers


def test_headers_are_stored_as_people_read_them() -> None:
    stored = dump_headers([("trace", b"1"), ("trace", b"2"), ("none", None), ("binary", b"\xff")])
    assert json.loads(stored) == [["trace", "1"], ["trace", "2"], ["none", None], ["binary", {"base64": "/w=="}]]


def test_records_of_a_key_keep_their_order_in_their_topic() -> None:
    ada = key_hash("orders", b"ada", None, None, 1)
    assert ada == key_hash("orders", b"ada", None, 3, 2)
    assert ada == key_hash("orders", b"bob", b"ada", None, 3)
    assert len({ada, key_hash("orders", b"bob", None, None, 1), key_hash("invoices", b"ada", None, None, 1)}) == 3


def test_without_a_key_records_for_one_partition_keep_their_order_and_others_have_none() -> None:
    assert key_hash("orders", None, None, 3, 1) == key_hash("orders", None, None, 3, 2)
    assert key_hash("orders", None, None, 3, 1) != key_hash("orders", None, None, 4, 1)
    assert key_hash("orders", None, None, None, 1) != key_hash("orders", None, None, None, 2)


@given(st.binary(), st.integers(0, 2**64 - 1))
def test_a_hash_and_its_lane_fit_their_columns(key: bytes, unordered: int) -> None:
    for hashed in (key_hash("orders", key, None, None, 0), key_hash("orders", None, None, None, unordered)):
        assert -(2**63) <= hashed < 2**63
        assert 0 <= lane_of(hashed) < LANES


def test_the_hash_stays_as_it_is_because_tables_hold_it() -> None:
    assert key_hash("orders", b"ada", None, None, 0) == 7447243924618587541
    assert key_hash("orders", None, None, 3, 0) == -2612199553159901098


def test_a_number_of_64_bits_stays_as_it_is() -> None:
    assert [key_hash("orders", None, None, None, 2**bits) for bits in (0, 62, 63)] == [1, 2**62, -(2**63)]

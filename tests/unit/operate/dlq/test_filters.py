"""Filters choose dead letters."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.operate.dlq.causes import cause_of
from flux.operate.dlq.filters import Filter
from unit.support.operate_support import NOW_MS, dead_letter, headers_of

LETTER = dead_letter(headers_of(error="requests.exceptions.Timeout", text="read timed out (30s)", reason="exhausted"))


@pytest.mark.parametrize(
    ("criteria", "matches"),
    [
        (Filter(), True),
        (Filter(reason="exhausted"), True),
        (Filter(reason="rejected"), False),
        (Filter(error="requests.exceptions.Timeout"), True),
        (Filter(error="Timeout"), True),
        (Filter(error="timeout"), True),
        (Filter(error="Time"), False),
        (Filter(error="Time*"), True),
        (Filter(error="*timed out*"), True),
        (Filter(error="KeyError"), False),
        (Filter(key="k"), True),
        (Filter(key="K"), False),
        (Filter(since_ms=NOW_MS), True),
        (Filter(since_ms=NOW_MS + 1), False),
        (Filter(cause=cause_of(LETTER).id), True),
        (Filter(cause=cause_of(LETTER).id[:4]), True),
        (Filter(cause="00000000"), False),
        (Filter(reason="exhausted", key="other"), False),
        (Filter(until_ms=NOW_MS + 1), True),
        (Filter(until_ms=NOW_MS), False),
        (Filter(headers=(("own", "header"),)), True),
        (Filter(headers=(("own", None),)), True),
        (Filter(headers=(("own", "HEADER"),)), False),
        (Filter(headers=(("own", "header"), ("other", None))), False),
        (Filter(only=frozenset({(0, 0), (3, 4)})), True),
        (Filter(only=frozenset({(1, 0), (0, 1)})), False),
        (Filter(only=frozenset()), False),
        (Filter(only=frozenset({(0, 0)}), key="other"), False),
    ],
)
def test_a_dead_letter_matches_when_all_that_is_given_does(criteria: Filter, matches: bool) -> None:
    assert criteria.matches(LETTER) is matches


def test_a_dead_letter_without_headers_or_key_matches_what_it_can() -> None:
    bare = dead_letter(key=None)
    assert Filter().matches(bare)
    assert Filter(error="").matches(bare)
    assert not Filter(key="").matches(bare)
    assert not Filter(reason="error").matches(bare)


def test_a_header_that_repeats_matches_by_any_of_its_values() -> None:
    twice = dead_letter([("trace", b"1"), ("trace", None), ("raw", b"\xff")])
    assert Filter(headers=(("trace", "1"),)).matches(twice)
    assert not Filter(headers=(("trace", ""),)).matches(twice)
    assert Filter(headers=(("raw", "\udcff"),)).matches(twice)


def test_all_are_taken_by_an_empty_filter_only() -> None:
    assert Filter().takes_all
    assert not Filter(only=frozenset()).takes_all
    assert not Filter(headers=(("a", None),)).takes_all


texts = st.none() | st.text(max_size=20)
filters = st.builds(
    Filter, st.none() | st.integers(0, 2**53), texts, texts, texts, texts, st.none() | st.integers(0, 2**53)
)
with_headers = st.builds(
    Filter, headers=st.lists(st.tuples(st.text(), st.none() | st.text()), min_size=1, max_size=3).map(tuple)
)


@given(filters | with_headers)
def test_a_filter_is_read_back_as_it_was_stored(criteria: Filter) -> None:
    assert Filter.from_json(json.loads(json.dumps(criteria.to_json()))) == criteria


@pytest.mark.parametrize(
    "data",
    [
        {"x": "1"},
        {"s": "1"},
        {"r": 1},
        {"k": None},
        {"s": True},
        {"h": []},
        {"h": "x"},
        {"h": [["a"]]},
        {"h": [[1, "a"]]},
    ],
)
def test_what_is_no_filter_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="filter"):
        Filter.from_json(data)

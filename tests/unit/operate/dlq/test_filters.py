"""Filters choose dead letters."""

from __future__ import annotations

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


texts = st.none() | st.text(max_size=20)
filters = st.builds(Filter, st.none() | st.integers(0, 2**53), texts, texts, texts, texts)


@given(filters)
def test_a_filter_is_read_back_as_it_was_stored(criteria: Filter) -> None:
    assert Filter.from_json(criteria.to_json()) == criteria


@pytest.mark.parametrize("data", [{"x": "1"}, {"s": "1"}, {"r": 1}, {"k": None}, {"s": True}])
def test_what_is_no_filter_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="filter"):
        Filter.from_json(data)

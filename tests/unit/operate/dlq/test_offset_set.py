"""A set of offsets is a set, also as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.operate.dlq.offset_set import NONE, OffsetSet

MOST = 4095
few = st.frozensets(st.integers(0, 60), max_size=30)
any_offsets = st.frozensets(st.integers(0, 2**62), max_size=20)


def members(offsets: OffsetSet) -> set[int]:
    return {each for start, end in offsets.ranges for each in range(start, end)}


@given(few, few, st.integers(0, 60))
def test_it_is_a_set(one: frozenset[int], two: frozenset[int], low: int) -> None:
    made = OffsetSet.of(one)
    assert [offset for offset in range(62) if offset in made] == sorted(one)
    assert len(made) == len(one)
    assert members(made.plus(two)) == one | two
    assert members(made.minus(two)) == one - two
    assert members(made.since(low)) == {offset for offset in one if offset >= low}
    assert made.plus(two).minus(two - one) == made


@given(st.one_of(few, any_offsets))
def test_it_is_read_back(offsets: frozenset[int]) -> None:
    made = OffsetSet.of(offsets)
    data = made.to_json(MOST)
    if not offsets:
        return
    assert data is not None
    assert OffsetSet.from_json(data) == made


def test_what_does_not_fit_is_not_cut() -> None:
    assert OffsetSet.of(range(10**6)).to_json(100) is not None
    assert OffsetSet.of(range(0, 20_000, 2)).to_json(MOST) is not None
    assert OffsetSet.of(range(0, 40_000, 2)).to_json(MOST) is None


@pytest.mark.parametrize("data", [None, 7, [], [1], [1, 2], ["1", ""], [True, ""], [0, "flux1r.00000000."], [1, 2, 3]])
def test_what_is_no_set_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="not a set"):
        OffsetSet.from_json(data)


def test_none_is_empty() -> None:
    assert (len(NONE), 0 in NONE, bool(NONE)) == (0, False, False)

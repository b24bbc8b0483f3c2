"""What was replayed, in commit metadata: each dead letter once, whatever the filters and wherever replays stopped."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.errors import FluxError
from flux.core.ports import CommittedOffset
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.replay_progress import DeadLetterState, ReplayProgress
from unit.support.operate_support import dead_letter, headers_of

ALL, TIMEOUTS, KEYS = Filter(), Filter(error="Timeout"), Filter(error="KeyError")
MOST = 4095
OPEN, REPLAYED, REJECTED = DeadLetterState


def dead_letters(*errors: str) -> list[Any]:
    return [dead_letter(headers_of(error=error), offset=offset) for offset, error in enumerate(errors)]


def test_a_replay_of_one_kind_leaves_the_others_to_a_later_replay_of_all() -> None:
    known = ReplayProgress(0).advanced(TIMEOUTS, 3)
    timeout, key, late = dead_letters("Timeout", "KeyError", "Timeout")
    assert [known.state_of(each) for each in (timeout, key, late)] == [REPLAYED, OPEN, REPLAYED]
    assert (known.start(TIMEOUTS), known.start(ALL)) == (3, 0)
    assert known.state_of(dead_letter(headers_of(error="Timeout"), offset=3)) is OPEN


def test_a_replay_of_all_takes_over_what_it_has_passed() -> None:
    known = ReplayProgress(0).advanced(TIMEOUTS, 3).advanced(KEYS, 9).advanced(ALL, 5)
    assert known == ReplayProgress(5, ((KEYS, 9),))
    assert known.start(TIMEOUTS) == 5


def test_one_that_is_chosen_is_replayed_and_its_neighbours_are_not() -> None:
    known = ReplayProgress(0).choosing([1])
    assert [known.state_of(each) for each in dead_letters("A", "A", "A")] == [OPEN, REPLAYED, OPEN]
    assert known.advanced(ALL, 3) == ReplayProgress(3)


def test_a_rejected_one_stays_rejected_until_it_is_replayed() -> None:
    known = ReplayProgress(0).rejecting([1]).advanced(ALL, 3)
    assert [known.state_of(each) for each in dead_letters("A", "A", "A")] == [REPLAYED, REJECTED, REPLAYED]
    assert known.choosing([1]) == ReplayProgress(3)


def test_what_is_deleted_needs_no_mark() -> None:
    known = ReplayProgress(0).choosing([1, 5]).rejecting([2, 6])
    assert known.since(5) == ReplayProgress(0).choosing([5]).rejecting([6])


sets = st.frozensets(st.integers(0, 2**40), max_size=20)


@given(st.integers(0, 2**40), sets, sets, st.booleans())
def test_chosen_and_rejected_ones_are_read_back(
    offset: int, chosen: frozenset[int], rejected: frozenset[int], part: bool
) -> None:
    known = ReplayProgress(offset, ((TIMEOUTS, 7),) if part else ()).choosing(chosen).rejecting(rejected)
    assert ReplayProgress.of(known.to_commit(MOST)) == known.checked(MOST)


def test_what_earlier_versions_can_read_is_committed_as_they_do() -> None:
    assert ReplayProgress(0, ((TIMEOUTS, 3),)).to_commit(MOST).metadata == 'flux-replay-1 [[{"e":"Timeout"},3]]'
    later = (Filter(headers=(("a", None),)), 3)
    assert ReplayProgress(0, (later,)).to_commit(MOST).metadata == 'flux-replay-2 {"p":[[{"h":[["a",null]]},3]]}'


def test_chosen_ones_are_never_dropped_to_make_room() -> None:
    many = ReplayProgress(0).rejecting(range(0, 40_000, 2))
    with pytest.raises(FluxError, match=r"20,000 dead letters .* need more than the 4,095 characters"):
        many.to_commit(MOST)
    few = ReplayProgress(3, ((TIMEOUTS, 9), (KEYS, 9))).rejecting(range(0, 2000, 2))
    most = len(few.to_commit(MOST).metadata) - 1
    assert ReplayProgress.of(few.to_commit(most)) == attrs.evolve(few, parts=((KEYS, 9),))
    with pytest.raises(FluxError, match="replay all dead letters, or purge"):
        few.checked(most)


def test_no_replay_takes_anything_back() -> None:
    known = ReplayProgress(5, ((KEYS, 9),))
    assert known.advanced(ALL, 3) == known.advanced(KEYS, 7) == known.advanced(TIMEOUTS, 5) == known


@given(
    st.integers(0, 2**60),
    st.lists(st.tuples(st.text(min_size=1, max_size=30), st.integers(0, 2**60)), max_size=5, unique_by=lambda p: p[0]),
)
def test_it_is_read_back_as_it_was_committed(offset: int, parts: list[tuple[str, int]]) -> None:
    known = ReplayProgress(offset, tuple((Filter(key=key), end) for key, end in parts))
    position = known.to_commit(MOST)
    assert len(position.metadata) <= MOST
    assert ReplayProgress.of(position) == known


def test_what_does_not_fit_is_forgotten_from_the_oldest_on() -> None:
    parts = tuple((Filter(key=f"key-{number}"), 9) for number in range(500))
    position = ReplayProgress(3, parts).to_commit(MOST)
    assert position.offset == 3
    assert len(position.metadata) <= MOST
    kept = ReplayProgress.of(position).parts
    assert 50 < len(kept) < 500
    assert kept == parts[-len(kept) :]
    assert ReplayProgress(3, ((Filter(key="x" * 9000), 9),)).to_commit(MOST) == CommittedOffset(3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flux-1:abc",
        "flux-replay-1 ",
        "flux-replay-1 {}x",
        "flux-replay-1 7",
        "flux-replay-1 [[1,2]]",
        'flux-replay-1 [[{"q":"x"},1]]',
        'flux-replay-1 [[{"k":"x"},"1"]]',
        'flux-replay-1 [[{"k":"x"}]]',
        "flux-replay-1 " + "[" * 999,
        "flux-replay-2 []",
        "flux-replay-2 {}",
        'flux-replay-2 {"p":[],"c":[]}',
        'flux-replay-2 {"p":[],"x":[0,"flux1r.00000000.AA"]}',
    ],
)
def test_a_string_that_is_foreign_or_damaged_repeats_and_loses_nothing(text: str) -> None:
    assert ReplayProgress.of(CommittedOffset(7, text)) == ReplayProgress(7)


kinds = st.sampled_from(["Timeout", "KeyError", "ValueError"])
runs = st.lists(
    st.tuples(st.sampled_from([ALL, TIMEOUTS, KEYS, Filter(error="*Error")]), st.integers(0, 12)), max_size=6
)


@given(st.lists(kinds, max_size=10), runs)
def test_whatever_was_replayed_before_a_last_replay_of_all_replays_each_dead_letter_once(
    errors: list[str], runs: list[tuple[Filter, int]]
) -> None:
    there = dead_letters(*errors)
    known, copies = ReplayProgress(0), [0] * len(there)
    for criteria, most in [*runs, (ALL, 1000)]:
        known = ReplayProgress.of(known.to_commit(MOST))  # each run is a process of its own
        start, reached = known.start(criteria), known.start(criteria)
        for each in there[start : start + most]:
            if criteria.matches(each) and known.state_of(each) is OPEN:
                copies[each.offset] += 1
            reached = each.offset + 1
        known = known.advanced(criteria, reached)
    assert copies == [1] * len(there)

"""Records that wait."""

from __future__ import annotations

from engine_support import P1, assignment, entry
from hypothesis import given
from hypothesis import strategies as st

from flux.core.delays import Delays


def test_nothing_comes_before_its_time() -> None:
    delays, owner = Delays(), assignment()
    one = entry(owner, 0, due=1000)
    delays.add(one)
    assert delays.next_due == 1000
    assert delays.due(999) is None
    assert delays.due(1000) is one
    assert delays.next_due is None
    assert delays.due(10**15) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20), st.integers(0, 9), st.booleans()), max_size=40))
def test_due_order_with_ties_by_offset_and_counts_that_are_right(
    made: list[tuple[int, int, int, bool]],
) -> None:
    delays, owners = Delays(), (assignment(), assignment(partition=P1))
    entries = [entry(owners[second], offset, due=due, size=size) for due, offset, size, second in made]
    for one in entries:
        delays.add(one)
    left = list(entries)
    previous = (-1, -1)
    while left:
        assert len(delays) == len(left)
        for owner in owners:
            here = [one for one in left if one.assignment is owner]
            assert owner.waiting == len(here)
            assert owner.waiting_bytes == sum(one.size for one in here)
        assert delays.next_due == min(one.due for one in left)
        taken = delays.due(10)
        assert taken is not None
        assert previous <= (taken.due, taken.offset)
        previous = (taken.due, taken.offset)
        left.remove(taken)
    assert len(delays) == 0


def test_what_is_dropped_is_forgotten_and_the_other_partition_keeps_its_order() -> None:
    delays, gone, stays = Delays(), assignment(), assignment(partition=P1)
    kept = [entry(stays, offset, due=100 - offset) for offset in range(20)]
    for number, one in enumerate(kept):
        delays.add(entry(gone, number, due=number))
        delays.add(one)
    delays.drop(gone)
    assert (gone.waiting, gone.waiting_bytes) == (0, 0)
    assert stays.waiting == len(delays) == 20
    assert [delays.due(1000) for _ in kept] == kept[::-1]

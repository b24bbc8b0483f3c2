"""Marks in committed offsets, and what an owner makes of the mark of one that vanished."""

from __future__ import annotations

import pytest

from flux.core.engine.crashes import FIRST_WINDOW, MOST_CRASHES, SETTLED, Crashes, Mark
from flux.core.engine.offset_tracker import OffsetTracker

MARKS = [
    Mark(0),
    Mark(2),
    Mark(MOST_CRASHES + 1, None, None, True),
    Mark(0, 70),
    Mark(2, 71, None, True),
    Mark(1, None, 71),
    Mark(2, 75, 76),
    Mark(7, 10**12, 10**12 + 1),
]


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_is_read_back_from_its_number(mark: Mark) -> None:
    assert Mark.of(mark.number(70), 70) == mark


def test_without_a_limit_nothing_is_noted_and_nothing_waits() -> None:
    crashes = Crashes(None, Mark(5, 3))
    assert crashes.opened
    assert (crashes.careful, crashes.windowed, crashes.unclear, crashes.naming) == (False, False, False, False)
    assert crashes.mark is None
    assert not crashes.kills(3)


def test_an_owner_notes_that_it_begins_and_only_once() -> None:
    crashes = Crashes(3)
    assert (crashes.mark, crashes.begun, crashes.unclear, crashes.opened) == (None, None, False, False)
    assert crashes.begins(7, 1.0)
    assert not crashes.begins(7, 2.0)
    assert (crashes.mark, crashes.begun) == (Mark(0), 1.0)


@pytest.mark.parametrize("found", [Mark(0), Mark(1)])
def test_the_successor_of_one_that_vanished_has_noted_something_already(found: Mark) -> None:
    crashes = Crashes(3, found)
    assert not crashes.begins(7, 1.0)
    assert (crashes.mark, crashes.begun) == (Mark(found.crashes + 1, None, None, True), 1.0)


@pytest.mark.parametrize(
    ("found", "crashes", "windowed", "careful"),
    [
        (None, 0, False, False),
        (Mark(0), 1, True, False),
        (Mark(0, None, None, True), 0, False, False),
        (Mark(1, None, 9), 2, False, True),
        (Mark(1, None, 9, True), 1, True, False),
        (Mark(2, 7, 9, True), 2, False, True),
        (Mark(MOST_CRASHES + 1, 7), MOST_CRASHES + 1, False, True),
    ],
)
def test_a_mark_that_is_found_is_one_more_crash_unless_it_rests(
    found: Mark | None, crashes: int, windowed: bool, careful: bool
) -> None:
    made = Crashes(3, found)
    assert (made.crashes, made.windowed, made.careful) == (crashes, windowed, careful)
    assert made.unclear is (found is not None and not found.rests)
    assert made.mark == (None if found is None else Mark(crashes, found.alone, found.until, True))


def test_what_is_found_is_said_in_words() -> None:
    assert Crashes(3, Mark(0)).finding == "1 process(es) in a row vanished while they worked on it"
    assert Crashes(3, Mark(1)).finding.endswith("; its next records are called one by one, with nothing beside them")


@pytest.mark.parametrize(
    ("changes", "oldest", "after", "over"),
    [
        (4, SETTLED, SETTLED, False),
        (5, SETTLED, SETTLED - 0.1, False),
        (5, SETTLED, SETTLED, True),
        (5, SETTLED - 0.1, 99.0, False),
        (5, -1.0, -1.0, True),
    ],
)
@pytest.mark.parametrize("found", [None, Mark(0)])
def test_the_mark_ends_when_no_call_of_its_owners_first_seconds_goes_on(
    found: Mark | None, changes: int, oldest: float, after: float, over: bool
) -> None:
    crashes = Crashes(3, found)
    assert not crashes.settles(9, 5.0, 5.0)
    crashes.begins(4, 5.0)
    assert crashes.settles(changes, 5.0 + oldest, 5.0 + after) is over
    assert (crashes.mark is None, crashes.opened) == (over, over)


def test_an_owner_that_calls_records_alone_does_not_settle() -> None:
    crashes = Crashes(3, Mark(1, None, 9))
    crashes.begins(4, 5.0)
    assert not crashes.settles(5, 99.0, 99.0)


def test_an_owner_that_gives_up_its_partition_is_not_to_blame() -> None:
    crashes = Crashes(3)
    crashes.begins(7, 5.0)
    crashes.ends()
    assert crashes.mark is None


@pytest.mark.parametrize("found", [Mark(0), Mark(1, None, 9), Mark(2, 7, 9)])
def test_what_it_had_found_stays_when_a_partition_is_given_up(found: Mark) -> None:
    crashes = Crashes(3, found)
    crashes.begins(7, 5.0)
    if crashes.careful:
        crashes.name(7)
    crashes.ends()
    assert crashes.mark == Mark(found.crashes + 1, found.alone, found.until, True)
    assert crashes.unclear is (found.crashes > 0)  # until a commit has withdrawn the name


def test_what_an_owner_has_survived_does_not_stay() -> None:
    crashes = Crashes(3, Mark(0))
    crashes.begins(7, 5.0)
    crashes.settles(8, 99.0, 5.0 + SETTLED)
    crashes.ends()
    assert crashes.mark is None


@pytest.mark.parametrize("named", [False, True])
def test_where_nothing_can_be_noted_records_are_called_as_usual(named: bool) -> None:
    crashes = Crashes(3, Mark(1, None, 9, True))
    crashes.extend(4, 9)
    if not named:
        crashes.rest()
        crashes.unclear = False
    crashes.give_up()
    assert (crashes.opened, crashes.windowed, crashes.mark) == (True, False, None)
    assert crashes.unclear is named  # what was committed accuses it


def test_what_is_done_is_not_in_doubt() -> None:
    offset_tracker = OffsetTracker(5, [(7, 8)])
    crashes = Crashes(3)
    assert crashes.noted(offset_tracker) is None
    for mark, noted in (
        (Mark(3, 6, 9), Mark(3, 6, 9)),
        (Mark(3, 7, 9), Mark(2, None, 9, True)),
        (Mark(3, 4, 5), Mark(2, None, None, True)),
        (Mark(1, None, 5), Mark(1)),
    ):
        crashes.mark = mark
        assert crashes.noted(offset_tracker) == noted


# ---- windows


def test_a_window_names_the_offset_below_which_records_are_called() -> None:
    crashes = Crashes(3, Mark(0))
    assert crashes.window * 2 == FIRST_WINDOW
    crashes.extend(8, 20)
    assert (crashes.mark, crashes.window, crashes.waits) == (Mark(1, None, 20), 8, True)
    crashes.extend(9, 15)
    assert crashes.mark == Mark(1, None, 20)


# ---- calls alone


def test_a_record_is_named_before_it_is_called_alone_and_not_afterwards() -> None:
    crashes = Crashes(3, Mark(1, None, 9))
    assert not crashes.naming
    assert not crashes.names(7)
    crashes.name(7)
    assert crashes.naming
    assert crashes.names(7)
    assert not crashes.names(8)
    assert crashes.mark == Mark(2, 7, 9)
    crashes.called()
    assert crashes.unclear
    assert crashes.mark == Mark(2, None, 9, True)


def test_a_name_is_withdrawn_when_its_commit_fails() -> None:
    crashes = Crashes(3, Mark(1, None, 9))
    crashes.name(7)
    crashes.rest()
    assert crashes.mark == Mark(2, None, 9, True)
    assert crashes.unclear
    assert not crashes.naming


def test_in_doubt_is_what_the_predecessor_may_have_called() -> None:
    assert [Crashes(3, Mark(1, None, 9)).doubts(offset) for offset in (8, 9)] == [True, False]
    assert [Crashes(3, Mark(2, 9, 9)).doubts(offset) for offset in (9, 10)] == [True, False]
    assert [Crashes(3, Mark(2, 9)).doubts(offset) for offset in (8, 9)] == [False, True]


def test_a_window_is_open_once_a_commit_has_named_it() -> None:
    crashes = Crashes(3, Mark(0))
    crashes.begins(7, 1.0)
    assert not crashes.has_window
    crashes.extend(4, 9)
    assert not crashes.has_window
    crashes.waits = False  # the commit has ended
    assert crashes.has_window
    assert not Crashes(3, Mark(1)).has_window


def test_when_none_is_in_doubt_records_are_called_in_windows_and_the_owner_settles_by_time_alone() -> None:
    crashes = Crashes(3, Mark(2, 7, 9))
    crashes.cleared(5.0)
    assert (crashes.windowed, crashes.named, crashes.mark) == (True, None, Mark(1, None, None, True))
    assert not crashes.doubts(8)
    assert not crashes.settles(0, 99.0, 5.0)
    assert crashes.settles(0, 99.0, 5.0 + SETTLED)


@pytest.mark.parametrize("limit", [2, 5])
def test_only_the_record_that_was_named_is_dead_and_after_that_many_crashes(limit: int) -> None:
    found: Mark | None = None
    for _ in range(1 + limit):
        crashes = Crashes(limit, found)
        assert not crashes.kills(7)
        crashes.begins(7, 1.0)
        if crashes.careful:
            crashes.name(7)
        elif crashes.windowed:
            crashes.extend(4, 9)
        found = crashes.mark
    crashes = Crashes(limit, found)
    assert crashes.kills(7)
    assert not crashes.kills(8)
    assert Crashes(limit, crashes.mark).kills(7)  # its dead letter was not written


def test_what_counts_for_the_named_record_does_not_count_for_others() -> None:
    crashes = Crashes(5, Mark(3, 7))
    crashes.name(8)
    assert crashes.mark == Mark(2, 8)
    crashes.name(7)
    assert crashes.mark == Mark(4, 7)

"""What is done of a partition, and the string that carries it from owner to owner."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import MAX_METADATA, OffsetTracker, read_mark, read_metadata

STARTS = st.integers(0, 2**62)
SIZES = st.one_of(st.integers(1, 3), st.integers(1, 10**12))
RUNS = st.lists(st.tuples(SIZES, SIZES), max_size=60)
"""Alternately undone and done, in offsets."""


def ranges(start: int, runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    made = []
    for undone, done in runs:
        made.append((start + undone, start + undone + done))
        start += undone + done
    return made


def test_the_position_passes_what_is_done_and_stops_at_what_is_not() -> None:
    offset_tracker = OffsetTracker(0)
    offset_tracker.delivered(0, 4)
    offset_tracker.done(2, 3)
    assert offset_tracker.committable == 0
    offset_tracker.done(0, 1)
    assert offset_tracker.committable == 1
    offset_tracker.done(1, 2)
    assert offset_tracker.committable == 3
    assert list(offset_tracker.ranges()) == []


def test_what_lies_between_two_deliveries_does_not_exist() -> None:
    offset_tracker = OffsetTracker(0)
    offset_tracker.delivered(5, 6)
    assert offset_tracker.committable == 5
    offset_tracker.delivered(100, 101)
    offset_tracker.done(5, 6)
    assert offset_tracker.committable == 100


def test_what_is_delivered_twice_is_nothing_new() -> None:
    offset_tracker = OffsetTracker(0)
    offset_tracker.delivered(0, 10)
    offset_tracker.delivered(3, 7)
    offset_tracker.done(0, 2)
    assert (offset_tracker.committable, offset_tracker.end) == (2, 10)


@st.composite
def logs(draw: Any) -> tuple[list[int], list[list[int]], list[int]]:
    """A log's offsets with gaps, cut into batches (some delivered twice), and an order in which its records end."""
    steps = draw(st.lists(st.integers(1, 4), min_size=1, max_size=30))
    log = [sum(steps[: number + 1]) for number in range(len(steps))]
    batches, rest = [], log
    while rest:
        size = draw(st.integers(1, len(rest)))
        batches += [rest[:size]] * draw(st.integers(1, 2))
        rest = rest[size:]
    return log, batches, draw(st.permutations(range(len(log))))


@given(logs(), st.booleans())
def test_the_position_never_passes_an_undone_record(
    made: tuple[list[int], list[list[int]], list[int]], twice: bool
) -> None:
    log, batches, order = made
    offset_tracker = OffsetTracker(0)
    ends = {}
    for batch in batches:
        offset_tracker.delivered(batch[0], batch[-1] + 1)
        ends.update({offset: batch[n + 1] if n + 1 < len(batch) else offset + 1 for n, offset in enumerate(batch)})
    undone = set(log)
    for number in order:
        offset = log[number]
        for _ in range(1 + twice):
            offset_tracker.done(offset, ends[offset])
        undone.discard(offset)
        assert offset_tracker.committable == min(undone, default=log[-1] + 1)
        assert all(offset_tracker.is_done(other) is (other not in undone) for other in log)
        restored = OffsetTracker(
            offset_tracker.committable, read_metadata(offset_tracker.committable, offset_tracker.metadata()) or ()
        )
        assert all(restored.is_done(other) is (other not in undone) for other in log)
        starts = [start for start, _ in offset_tracker.ranges()]
        ranges_ends = [end for _, end in offset_tracker.ranges()]
        assert all(end < start for end, start in zip(ranges_ends, starts[1:], strict=False))
    assert offset_tracker.metadata() == ""


@given(STARTS, RUNS)
def test_metadata_comes_back_as_it_was(position: int, runs: list[tuple[int, int]]) -> None:
    offset_tracker = OffsetTracker(position, ranges(position, runs))
    text = offset_tracker.metadata()
    assert len(text) <= MAX_METADATA
    if runs:
        assert read_metadata(position, text) == ranges(position, runs) == list(offset_tracker.ranges())
    else:
        assert text == ""


@given(STARTS, st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2)), min_size=200, max_size=400))
@settings(max_examples=20)
def test_dense_ranges_are_stored_as_bits(position: int, runs: list[tuple[int, int]]) -> None:
    text = OffsetTracker(position, ranges(position, runs)).metadata()
    assert text.startswith("flux1b.")
    assert read_metadata(position, text) == ranges(position, runs)


@given(STARTS, RUNS, st.integers(0, 120))
def test_metadata_never_exceeds_its_limit_and_never_says_more_than_is_done(
    position: int, runs: list[tuple[int, int]], limit: int
) -> None:
    offset_tracker = OffsetTracker(position, ranges(position, runs), limit)
    text = offset_tracker.metadata()
    assert len(text) <= limit
    stored = read_metadata(position, text) if text else []
    assert stored is not None
    for start, end in stored:
        assert offset_tracker.is_done(start)
        assert any(low <= start and end <= high for low, high in offset_tracker.ranges())


@given(st.data())
def test_whom_it_admits_the_metadata_has_room_for_however_the_calls_end(data: Any) -> None:
    limit = data.draw(st.integers(16, 60), "limit")
    offset_tracker = OffsetTracker(0, (), limit)
    step = st.integers(1, 50)
    in_flight: dict[int, int] = {}
    at = 0
    for _ in range(data.draw(st.integers(1, 40), "records")):
        end = at + data.draw(step, "size")
        offset_tracker.delivered(at, end)
        if at == offset_tracker.committable or offset_tracker.admits(end, len(in_flight)):
            in_flight[at] = end
        ended = data.draw(st.sets(st.sampled_from(sorted(in_flight))) if in_flight else st.just(set()), "ended")
        for offset in ended:
            offset_tracker.done(offset, in_flight.pop(offset))
            text = offset_tracker.metadata()
            assert len(text) <= limit
            assert (read_metadata(offset_tracker.committable, text) if text else []) == list(offset_tracker.ranges())
        at = end


def test_the_first_record_always_has_room_for_the_next_by_default() -> None:
    offset_tracker = OffsetTracker(0)
    offset_tracker.delivered(0, 20_000)
    assert offset_tracker.admits(20_000, 10_000)
    assert not offset_tracker.admits(10**9, 10_000)
    assert offset_tracker.admits(10**9, 100)


@pytest.mark.parametrize("limit", [0, 1, 15, 16])
def test_a_limit_too_small_for_anything_stores_nothing(limit: int) -> None:
    assert OffsetTracker(0, [(5, 6)], limit).metadata() == ""


@pytest.mark.timeout(60)
def test_a_huge_span_costs_no_memory_and_no_time() -> None:
    offset_tracker = OffsetTracker(0)
    far = 10**12
    for number in range(2000):
        offset_tracker.done(far * (number + 1), far * (number + 1) + far // 2)
    assert len(offset_tracker.metadata()) <= MAX_METADATA
    assert offset_tracker.is_done(far)
    offset_tracker.done(0, far * 3000)
    assert offset_tracker.committable == far * 3000


@pytest.mark.parametrize(
    ("committable", "done", "text"),
    [
        (0, [(127, 255)], "flux1r.8c36e98e.f4AB"),  # 7f, 80 01
        (100, [(300, 323)], "flux1r.af8f953b.yAEX"),  # c8 01, 17
        (100, [(101, 102), (103, 104), (107, 108)], "flux1b.5cb436d1.ig"),  # 8a
    ],
)
def test_the_format_stays_as_other_versions_read_it(committable: int, done: list[tuple[int, int]], text: str) -> None:
    assert OffsetTracker(committable, done).metadata() == text
    assert read_metadata(committable, text) == done


GOOD = OffsetTracker(100, [(105, 110), (12_000, 12_001)]).metadata()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flux1",
        "someone else's",
        '{"offset": 1}',
        "flux2" + GOOD[5:],
        GOOD.replace("flux1r", "flux1b"),
        GOOD.replace("flux1r", "flux1x"),
        GOOD[:-1],
        GOOD + "A",
        GOOD + "\n",
        GOOD + "\0",
        " " + GOOD,
        GOOD.upper(),
        "flux1r.00000000.",
        "flux1r.zzzzzzzz.AAAA",
        "flux1r.00000000.A",
        "é" * 3000,
        "\ud800",
    ],
)
def test_a_string_that_is_foreign_damaged_or_of_an_unknown_version_is_none(text: str) -> None:
    assert read_metadata(100, text) is None


def test_a_string_beside_another_position_is_not_believed() -> None:
    assert read_metadata(100, GOOD) == [(105, 110), (12_000, 12_001)]
    assert read_metadata(101, GOOD) is None


@given(st.integers(0, len(GOOD) - 1), st.characters())
def test_one_changed_character_is_noticed(index: int, character: str) -> None:
    text = GOOD[:index] + character + GOOD[index + 1 :]
    assert read_metadata(100, text) in (None, [(105, 110), (12_000, 12_001)])


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    assert read_metadata(0, text) is None or text.startswith("flux1")


@given(st.sampled_from("rb"), st.binary(max_size=60))
def test_no_payload_breaks_the_reader_or_the_offset_tracker(kind: str, payload: bytes) -> None:
    crc = binascii.crc32(payload, binascii.crc32(f"7:{kind}".encode()))
    text = f"flux1{kind}.{crc:08x}." + base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
    read = read_metadata(7, text)
    assert read is not None
    assert all(7 <= start <= end for start, end in read)
    assert OffsetTracker(7, read).committable >= 7


@given(RUNS, RUNS, st.integers(0, 40))
def test_many_ranges_at_once_are_as_if_each_was_done_alone(
    before: list[tuple[int, int]], more: list[tuple[int, int]], start: int
) -> None:
    alone, together = OffsetTracker(20, ranges(20, before)), OffsetTracker(20, ranges(20, before))
    added = ranges(start, more)
    for each in added:
        alone.done(*each)
    together.all_done(added)
    assert together.committable == alone.committable
    assert list(together.ranges()) == list(alone.ranges())


def test_its_repr_has_all_of_its_state() -> None:
    tracker = OffsetTracker(3, [(5, 6)])
    tracker.delivered(3, 9)
    assert repr(tracker) == "<OffsetTracker 3, done [(5, 6)], delivered to 9>"


def test_each_range_that_is_done_counts_as_a_change() -> None:
    tracker = OffsetTracker(0, [(50, 51)])
    tracker.all_done([(number, number + 1) for number in range(2, 12, 2)])
    assert tracker.changes == 6


def test_what_was_done_before_is_no_change() -> None:
    tracker = OffsetTracker(0)
    tracker.done(0, 5)
    tracker.done(2, 5)
    tracker.done(0, 3)
    assert tracker.changes == 1
    tracker.done(7, 8)
    tracker.done(5, 6)
    assert tracker.changes == 3


@pytest.mark.parametrize(
    ("before", "ranges", "committable", "left"),
    [
        ([], [(1, 2), (3, 4), (5, 6), (7, 8)], 0, [(1, 2), (3, 4), (5, 6), (7, 8)]),
        ([], [(0, 1), (2, 3), (4, 5), (6, 7)], 1, [(2, 3), (4, 5), (6, 7)]),
        ([(3, 4)], [(1, 2), (4, 5), (6, 7), (8, 9)], 0, [(1, 2), (3, 5), (6, 7), (8, 9)]),
        ([(3, 9)], [(1, 2), (4, 5), (6, 7), (20, 21)], 0, [(1, 2), (3, 9), (20, 21)]),
        ([(1, 3)], [(0, 1), (3, 4), (6, 7), (8, 9)], 4, [(6, 7), (8, 9)]),
        ([(20, 25)], [(1, 2), (3, 4), (5, 6), (21, 30)], 0, [(1, 2), (3, 4), (5, 6), (20, 30)]),
    ],
)
def test_ranges_are_joined_with_those_that_they_touch(
    before: list[tuple[int, int]], ranges: list[tuple[int, int]], committable: int, left: list[tuple[int, int]]
) -> None:
    tracker = OffsetTracker(0, before)
    tracker.all_done(ranges)
    assert (tracker.committable, list(tracker.ranges())) == (committable, left)


def test_the_room_is_that_of_the_span_and_not_of_the_offsets() -> None:
    tracker = OffsetTracker(10**12)
    tracker.delivered(10**12, 10**12 + 100)
    assert tracker.admits(10**12 + 100, 10_000)


def test_what_is_done_far_above_takes_the_room_of_a_record_below_it() -> None:
    assert not OffsetTracker(0, [(10**9, 10**9 + 1)]).admits(5, 10_000)


def test_a_span_that_fits_as_bits_admits_any_number_of_calls() -> None:
    tracker = OffsetTracker(0, (), 16 + 4)  # three bytes
    assert tracker.admits(24, 1000)
    assert not tracker.admits(25, 1000)


@pytest.mark.parametrize(
    ("characters", "span", "most"),
    [
        (20, 127, 6),  # 15 bytes, two for each range
        (20, 128, 2),  # four for each
        (32, 1000, 5),  # 24 bytes, all of them needed
    ],
)
def test_a_longer_span_admits_as_many_calls_as_run_lengths_fit(characters: int, span: int, most: int) -> None:
    tracker = OffsetTracker(0, (), 16 + characters)
    assert tracker.admits(span, most)
    assert not tracker.admits(span, most + 1)


def test_what_it_will_be_after_more_ranges_leaves_it_as_it_is() -> None:
    tracker = OffsetTracker(10, [(12, 13)], 100)
    tracker.delivered(10, 20)

    later = tracker.after([(10, 11), (15, 16)])

    assert (later.committable, list(later.ranges()), later.end) == (11, [(12, 13), (15, 16)], 20)
    assert read_metadata(11, later.metadata()) == [(12, 13), (15, 16)]
    assert (tracker.committable, list(tracker.ranges())) == (10, [(12, 13)])


def test_what_it_will_be_has_the_same_limit() -> None:
    tracker = OffsetTracker(0, (), 0)
    tracker.delivered(0, 5)

    assert tracker.after([(3, 4)]).metadata() == ""


def test_what_was_delivered_and_is_not_done_is_counted_in_offsets() -> None:
    tracker = OffsetTracker(10, [(12, 14), (30, 40)])
    assert tracker.unfinished == 0
    tracker.delivered(11, 20)
    assert tracker.unfinished == 7, "there is no record 10, and 12 and 13 are done"
    tracker.done(15, 17)
    assert tracker.unfinished == 5
    tracker.delivered(25, 35)
    assert tracker.unfinished == 5 + 5, "20 to 24 do not exist, and from 30 on all is done"
    tracker.done(10, 35)
    assert tracker.unfinished == 0


# ---- marks


@given(STARTS, RUNS, st.integers(0, 100), st.one_of(st.none(), st.integers(0, 10**6)))
def test_a_mark_is_read_back_and_what_is_done_beside_it(
    start: int, runs: list[tuple[int, int]], crashes: int, ahead: int | None
) -> None:
    done = ranges(start, runs)
    mark = Mark(crashes, None if ahead is None else start + ahead)
    string = OffsetTracker(start, done).metadata(mark)
    assert read_metadata(start, string) == done
    assert read_mark(start, string) == mark
    assert read_mark(start + 1, string) is None


def test_where_there_is_no_mark_none_is_read() -> None:
    many = OffsetTracker(0, [(offset, offset + 1) for offset in range(1, 40, 2)])
    assert many.metadata().startswith("flux1b")
    for string in ("", "somebody's", OffsetTracker(0, [(1, 2)]).metadata(), many.metadata()):
        assert read_mark(0, string) is None


def test_a_mark_that_does_not_fit_is_left_out_and_what_is_done_is_not() -> None:
    done = [(offset, offset + 1) for offset in range(1, 40, 2)]
    string = OffsetTracker(0, done, 16 + 10).metadata(Mark(2, 3))
    assert read_metadata(0, string) == done
    assert read_mark(0, string) is None
    assert OffsetTracker(0, (), 16).metadata(Mark(2, 3)) == ""

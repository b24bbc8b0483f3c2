"""The checker of histories: quiet where all is well, and each kind of fault that is planted is found as that kind."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
import pytest

from flux.core.engine.offset_tracker import OffsetTracker
from proof.history import checker, kafka
from proof.history.checker import check, counts
from proof.history.events import (
    Began,
    Committed,
    Deleted,
    Died,
    Ended,
    Event,
    Moment,
    Output,
    Produced,
    Stored,
    read,
    write,
)
from proof.history.faults import FAULTS, Planted
from proof.history.metadata import ranges
from proof.history.sound import metadata, repeats, sound

SEEDS = range(20)
_MS = 1_000_000


def kinds(events: Iterable[Event], **options: bool) -> set[str]:
    return {finding.kind for finding in check(events, **options)}


@pytest.mark.parametrize("seed", range(100))
def test_a_sound_history_has_no_findings(seed: int) -> None:
    assert check(sound(seed), exactly_once=repeats(sound(seed)) == 0) == []


def test_sound_histories_hold_what_could_raise_a_false_alarm() -> None:
    every = [sound(seed) for seed in SEEDS]
    assert sum(map(repeats, every)) > 100
    seen = counts(event for events in every for event in events)
    assert min(seen[kind] for kind in ("produced", "stored", "output", "committed", "died")) > 20
    assert seen["began"] > seen["ended"], "calls that were cut off"
    assert any(event.metadata for events in every for event in events if isinstance(event, Committed))


def test_a_history_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    events = [*sound(1), Deleted(0, ((1, 5),), Moment(1, 2)), Deleted(1, None, Moment(3, 4))]
    write(tmp_path / "history", events)
    with (tmp_path / "history").open("a") as file:
        file.write('{"event":"died","pid"')
    assert list(read(tmp_path / "history")) == events


# ---- faults


@pytest.mark.parametrize(("plant", "kind"), FAULTS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_planted_fault_is_found_as_what_it_is(plant: Callable[[Planted], bool], kind: str) -> None:
    places = 0
    for seed in SEEDS:
        events = Planted(seed)
        if plant(events):
            places += 1
            assert kinds(events) == {kind}, f"seed {seed}"
    assert places >= 5


def test_every_kind_has_a_fault_that_is_planted() -> None:
    assert {kind for _, kind in FAULTS} | {checker.OUTPUT_TWICE, checker.COPY_TWICE} == set(checker.KINDS)


# ---- what must not raise an alarm, and what is easily overlooked


def at(ms: float) -> Moment:
    return Moment(1_800_000_000_000 * _MS + int(ms * _MS), int(ms * _MS))


def made(
    id: int, ms: float, *, pid: int = 1, offset: int | None = None, stage: int = 0, key: str | None = "k"
) -> Began:
    return Began(int(ms * 10), pid, id, stage, 0, id if offset is None else offset, key, 0, at(ms))


def over(began: Began, ms: float, then: int | None = None) -> Ended:
    return Ended(began.call, began.pid, "done" if then is None else "failed", then, 0.0, False, at(ms))


def once(seed: int) -> list[Event]:
    """A sound history in which calls may be repeated, and neither their outputs nor their copies."""
    seen: set[tuple[object, ...]] = set()
    events: list[Event] = []
    for event in sound(seed):
        match event:
            case Output(id):
                what: tuple[object, ...] = (id,)
            case Stored(id, stage) if stage:
                what = (id, stage)
            case _:
                what = (len(events),) * 3
        if what not in seen:
            events.append(event)
        seen.add(what)
    return events


def test_outputs_and_copies_are_there_once_under_exactly_once() -> None:
    for seed in SEEDS:
        events = once(seed)
        twice = {checker.OUTPUT_TWICE, checker.COPY_TWICE}
        assert kinds(events, exactly_once=True).isdisjoint(twice)
        output = next(event for event in events if isinstance(event, Output))
        assert kinds([*events, output], exactly_once=True) & twice == {checker.OUTPUT_TWICE}
        copy = next(event for event in events if isinstance(event, Stored) and event.stage)
        again = attrs.evolve(copy, offset=10_000)
        assert kinds([*events, again], exactly_once=True) & twice == {checker.COPY_TWICE}
        gone = [event for event in events if event is not output]
        assert checker.LOST in kinds(gone, exactly_once=True)


def test_a_commit_may_be_stored_before_the_output_of_its_transaction() -> None:
    first = made(1, 0)
    events: list[Event] = [first, attrs.evolve(over(first, 5), output=True), Committed(0, 0, 2, "", at(10).wall // _MS)]
    assert kinds(events, exactly_once=True) == {checker.LOST}
    events.append(Output(1, at(50).wall // _MS))
    assert kinds(events, exactly_once=True) == set()
    assert kinds(events) == {checker.COMMITTED_EARLY}
    late = [attrs.evolve(each, at=at(20)) if isinstance(each, Ended) else each for each in events]
    assert kinds(late, exactly_once=True) == {checker.COMMITTED_EARLY}


def test_a_call_that_its_process_took_with_it_is_over() -> None:
    cut_off, again = made(1, 0), made(1, 20, pid=2)
    events: list[Event] = [cut_off, again, over(again, 21)]
    assert kinds(events) == {checker.AT_ONCE}
    assert kinds([*events, Died(1, at(10))]) == set()


def test_calls_without_a_key_or_of_two_stages_may_run_at_once() -> None:
    first, second, third = made(1, 0, key=None), made(2, 1, key=None), made(3, 2, stage=1)
    assert kinds([first, second, third, over(first, 5), over(second, 6), over(third, 7)]) == set()


def test_a_record_that_comes_late_with_an_earlier_due_time_has_overtaken_nobody() -> None:
    """Unless its owner knew it: it had begun one behind it."""

    def retry(id: int, ms: float, due: float) -> Began:
        return attrs.evolve(made(id, ms, stage=1), due=at(due).wall // _MS)

    asked = [made(id, 0, key=None) for id in (1, 2)]
    late, early = retry(1, 110, due=100), retry(2, 120, due=90)
    events: list[Event] = [
        *asked,
        *(over(each, 1, 1) for each in asked),
        late,
        over(late, 111),
        early,
        over(early, 121),
    ]
    events += [Stored(id, 1, 0, id, at(2).wall // _MS) for id in (1, 2)]
    assert kinds(events) == set()
    behind = attrs.evolve(made(3, 105, stage=1, key="other"), offset=3)
    assert kinds([*events, behind, over(behind, 106)]) == {checker.OUT_OF_ORDER}


def test_records_that_were_deleted_are_not_lost() -> None:
    events: list[Event] = [Produced(id, 0, id, at(0)) for id in range(3)]
    assert kinds(events) == {checker.LOST}
    assert [finding.ids for finding in check([*events, Deleted(0, ((0, 2),), at(1))])] == [(2,)]


def test_offsets_of_a_topic_that_was_created_again_are_other_records() -> None:
    asked, before, again, after = made(7, 0), made(7, 5, stage=1), made(8, 20), made(8, 25, stage=1)
    before, after = attrs.evolve(before, offset=0), attrs.evolve(after, offset=0)
    sent: list[Event] = [asked, over(asked, 1, 1), before, over(before, 6), again, over(again, 21, 1)]
    sent += [Stored(8, 1, 0, 0, at(22).wall // _MS), Committed(1, 0, 1, "", at(8).wall // _MS)]
    assert kinds([*sent, Deleted(1, None, at(10)), after, over(after, 26)]) == set()
    assert kinds([*sent, Deleted(1, None, at(10))]) == {checker.LOST}
    assert kinds([*sent, after, over(after, 26)]) != set(), "without the deletion it is a record that was lost"


def test_a_call_of_a_topic_that_was_deleted_meanwhile_is_not_lost() -> None:
    assert kinds([made(1, 0, stage=1)]) == {checker.LOST}
    assert kinds([made(1, 0, stage=1), Deleted(1, None, at(5))]) == set()


def test_a_call_whose_output_was_not_delivered_has_failed() -> None:
    first, again = made(1, 0), made(1, 10, stage=1)
    events: list[Event] = [first, attrs.evolve(over(first, 1), output=True), again]
    events.append(attrs.evolve(over(again, 11), output=True))
    assert kinds(events) == {checker.LOST}
    copy = Stored(1, 1, 0, 1, at(2).wall // _MS)
    [finding] = check([*events, copy])
    assert finding.text.startswith("Place(stage=1,"), "and not in stage 0"
    assert kinds([*events, copy, Output(1, at(12).wall // _MS)]) == set()


def test_a_commit_before_the_end_is_early_though_the_output_was_there() -> None:
    first = made(1, 0)
    events: list[Event] = [first, attrs.evolve(over(first, 30), output=True), Output(1, at(5).wall // _MS)]
    assert kinds([*events, Committed(0, 0, 2, "", at(20).wall // _MS)]) == {checker.COMMITTED_EARLY}
    assert kinds([*events, Committed(0, 0, 2, "", at(40).wall // _MS)]) == set()


@pytest.mark.parametrize(("began", "found"), [(5, {checker.EARLY}), (9.5, set()), (20, set())])
def test_a_wait_counts_from_the_first_call_that_asked_for_it(began: float, found: set[str]) -> None:
    """Times are rounded to milliseconds."""
    first, again = made(1, 0, key=None), made(1, 2, pid=2, key=None)
    asked = [attrs.evolve(over(first, 1, 1), after=0.009), attrs.evolve(over(again, 50, 1), after=0.009)]
    later = made(1, began, stage=1, key=None)
    copy = Stored(1, 1, 0, 1, at(2).wall // _MS)
    assert kinds([first, again, *asked, copy, later, over(later, began + 1)]) == found


def test_a_call_is_compared_with_the_longest_of_those_before() -> None:
    long, short, last = made(1, 0), made(2, 10), made(3, 20)
    events: list[Event] = [long, short, last, over(long, 30), over(short, 12), over(last, 22)]
    assert [finding.ids for finding in check(events)] == [(1, 2), (1, 3)]


def test_a_wall_clock_that_was_set_proves_nothing() -> None:
    first = made(1, 0)
    events: list[Event] = [first, over(first, 30), Committed(0, 0, 2, "", at(20).wall // _MS)]
    assert kinds(events) == {checker.COMMITTED_EARLY}
    assert kinds([*events, Died(9, Moment(at(60).wall, at(40).mono))]) == set()


def test_a_finding_shows_what_it_is_about() -> None:
    first = made(1, 0)
    [finding] = check([first, over(first, 30), Committed(0, 0, 2, "", at(20).wall // _MS)])
    assert str(finding).startswith("committed early: record 1: Place(stage=0, era=0, partition=0, offset=1) by 10 ms")
    assert "Committed(" in str(finding)


# ---- from the cluster


@pytest.mark.parametrize("bits", [True, False])
def test_metadata_is_read_by_its_description(bits: bool) -> None:
    done = [(7, 9), (12, 13), (200, 460)]
    assert ranges(5, metadata(5, done, bits)) == done
    assert ranges(5, "") == []
    with pytest.raises(ValueError, match="damaged, or of another commit"):
        ranges(5, metadata(6, done, bits))


def test_metadata_of_flux_is_read_as_it_means_it() -> None:
    chance = random.Random(0)
    for _ in range(50):
        tracker = OffsetTracker(5)
        tracker.delivered(5, 2000)
        for start in sorted(chance.sample(range(6, 1990), chance.choice([1, 3, 900]))):
            tracker.done(start, start + chance.randrange(1, 9))
        assert ranges(5, tracker.metadata()) == list(tracker.ranges())


@attrs.frozen
class Message:
    stored_key: bytes
    stored: bytes | None

    def key(self) -> bytes:
        return self.stored_key

    def value(self) -> bytes | None:
        return self.stored


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


@pytest.mark.parametrize("size", [0, 6, 200])
def test_commits_are_read_from_the_topic_of_offsets(size: int) -> None:
    key = struct.pack(">h", 1) + text("g-1") + text("t-g-try-1") + struct.pack(">i", 4)
    begin, stamp = struct.pack(">qi", 12345678901, 7), struct.pack(">q", 1_800_000_000_123)
    string = ("x" * size + "\0").encode()
    length = bytes([len(string) + 1] if size < 100 else [(len(string) + 1) & 127 | 128, (len(string) + 1) >> 7])
    third = struct.pack(">h", 3) + begin + struct.pack(">h", len(string)) + string + stamp
    fourth = struct.pack(">h", 4) + begin + length + string + stamp + b"\0"
    other = struct.pack(">h", 1) + text("another") + text("t-g-try-1") + struct.pack(">i", 4)
    member = struct.pack(">h", 2) + text("g-1")
    messages = [Message(key, third), Message(key, fourth), Message(key, None), Message(other, third)]
    found = list(kafka.commits([*messages, Message(member, b"")], {("g-1", "t-g-try-1"): 1}))
    assert found == 2 * [Committed(1, 4, 12345678901, "x" * size, 1_800_000_000_123)]
    with pytest.raises(ValueError, match="version 9"):
        list(kafka.commits([Message(key, b"\0\x09" + begin)], {("g-1", "t-g-try-1"): 1}))

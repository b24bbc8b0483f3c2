"""The checker of histories: quiet where all is well, and each kind of fault that is planted is found as that kind."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest

from flux.core.engine.offset_tracker import OffsetTracker
from proof.history import checker, kafka
from proof.history.checker import check, counts
from proof.history.events import (
    Began,
    Call,
    Committed,
    Deleted,
    Died,
    Ended,
    Event,
    Moment,
    Output,
    Produced,
    Stored,
    calls,
    read,
    write,
)
from proof.history.metadata import ranges
from proof.history.sound import DEAD, metadata, output, repeats, sound, target

SEEDS = range(20)
_MS = 1_000_000


def kinds(events: Iterable[Event], **options: bool) -> set[str]:
    return {finding.kind for finding in check(events, **options)}


@pytest.mark.parametrize("seed", range(100))
def test_a_sound_history_has_no_findings(seed: int) -> None:
    assert check(sound(seed), outputs_once=repeats(sound(seed)) == 0) == []


def test_sound_histories_hold_what_could_raise_a_false_alarm() -> None:
    every = [sound(seed) for seed in SEEDS]
    assert sum(map(repeats, every)) > 100
    seen = counts(event for events in every for event in events)
    assert min(seen[kind] for kind in ("produced", "stored", "output", "committed", "died")) > 20
    assert seen["began"] > seen["ended"], "calls that were cut off"
    assert any(event.metadata for events in every for event in events if isinstance(event, Committed))


def test_a_history_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    events = [*sound(1), Deleted(0, [(1, 5)], Moment(1, 2)), Deleted(1, None, Moment(3, 4))]
    write(tmp_path / "history", events)
    with (tmp_path / "history").open("a") as file:
        file.write('{"event":"died","pid"')
    again = list(read(tmp_path / "history"))
    assert [*again[:-2]] == events[:-2]
    assert again[-1] == events[-1]


# ---- faults


class Planted(list[Event]):
    """A sound history with a fault in it. Each planter returns whether it has found a place for its fault."""

    def __init__(self, seed: int) -> None:
        super().__init__(sound(seed))
        self.random = random.Random(seed)
        self.calls = calls(self)
        """As they were before."""
        self._made = Counter(place(call) for call in self.calls)

    def replace(self, old: Event, new: Event) -> None:
        self[self.index(old)] = new

    def drop(self, which: Callable[[Any], bool]) -> None:
        self[:] = [event for event in self if not which(event)]

    def drop_from(self, id: int, stage: int) -> None:
        """As if the record had never come to this stage."""
        self.drop(
            lambda event: (
                (isinstance(event, Began | Stored) and (event.id, event.stage >= stage) == (id, True))
                or (isinstance(event, Output) and event.id == id)
            )
        )

    def some(self, which: Callable[[Call], bool]) -> Call | None:
        found = [call for call in self.calls if which(call)]
        return self.random.choice(found) if found else None

    def once(self, call: Call) -> bool:
        """Whether it is the one call of its record in its stage."""
        return call.ended is not None and self._made[place(call)] == 1

    def commit_after(self, call: Call) -> float:
        """When the first commit that may say it is done was stored, in ns."""
        stamps = [
            event.stamp * _MS
            for event in self
            if isinstance(event, Committed)
            and (event.stage, event.partition) == place(call)[:2]
            and (
                event.offset > call.began.offset
                or any(start <= call.began.offset < end for start, end in ranges(event.offset, event.metadata))
            )
        ]
        return min(stamps)

    def pair(self, across: bool, stage: int = 0) -> tuple[Call, Call] | None:
        """Two calls of one key, one after the other, each of a record that is done in this stage by one call, and both
        before a commit says so."""
        found = []
        for before in self.calls:
            if before.began.stage != stage or before.began.key is None:
                continue
            queue = [call for call in self.calls if near(call) == near(before)]
            behind = queue[queue.index(before) + 1 :]
            call = behind[0] if behind else before
            if (
                (before.began.pid != call.began.pid) == across
                and all(self.once(each) and each.ended and each.ended.next is None for each in (before, call))
                and not output(before.began.id)
                and not output(call.began.id)
                and call is not before
                and (across or self.commit_after(before) > ended(call).at.wall)
                and call.began.due * _MS < before.began.at.wall
            ):
                found.append((before, call))
        return self.random.choice(found) if found else None


def place(call: Call) -> tuple[int, int, int]:
    return call.began.stage, call.began.partition, call.began.offset


def near(call: Call) -> tuple[int, int, str | None]:
    return call.began.stage, call.began.partition, call.began.key


def ended(call: Call) -> Ended:
    assert call.ended is not None
    return call.ended


def never_called(events: Planted) -> bool:
    """Nor committed: all that its partition holds behind it neither."""
    [last] = [call for call in events.calls if call.began.stage == 0][-1:]
    gone = (0, last.began.partition, last.began.offset)
    events.drop_from(last.began.id, 1)
    events.drop(lambda event: isinstance(event, Began) and (event.stage, event.partition, event.offset) == gone)
    events.drop(lambda event: isinstance(event, Committed) and (event.stage, event.partition) == gone[:2])
    return True


def call_cut_off(events: Planted) -> bool:
    call = events.some(
        lambda call: call.began.key is None and events.once(call) and target(call.began.id, call.began.stage) is None
    )
    if call:
        events.remove(ended(call))
    return bool(call)


def copy_missing(events: Planted) -> bool:
    call = events.some(lambda call: call.ended is not None and call.ended.next in (1, 2))
    if call:
        events.drop_from(call.began.id, ended(call).next or 0)
    return bool(call)


def dead_letter_missing(events: Planted) -> bool:
    call = events.some(lambda call: call.ended is not None and call.ended.next == DEAD)
    if call:
        events.drop_from(call.began.id, DEAD)
    return bool(call)


def output_missing(events: Planted) -> bool:
    call = events.some(lambda call: call.ended is not None and call.ended.output and call.ended.next is None)
    if call:
        events.drop(lambda event: isinstance(event, Output) and event.id == call.began.id)
    return bool(call)


def skipped(events: Planted) -> bool:
    call = events.some(lambda call: call.began.stage == 0)
    if call:
        events.drop_from(call.began.id, 1)
        events.drop(lambda event: isinstance(event, Began) and event.id == call.began.id)
    return bool(call)


def skipped_in_a_retry_stage(events: Planted) -> bool:
    call = events.some(lambda call: call.began.stage == 1)
    if call:
        events.drop_from(call.began.id, 2)
        events.drop(lambda event: isinstance(event, Began) and (event.id, event.stage) == (call.began.id, 1))
    return bool(call)


def commit_before_the_end(events: Planted) -> bool:
    """The call's end, and so all that followed it, is later than the commit."""
    call = events.some(lambda call: events.once(call) and events.commit_after(call) > ended(call).at.wall)
    if call:
        stamp = int(call.began.at.wall // _MS) - 5
        [first, *_] = [
            event
            for event in events
            if isinstance(event, Committed)
            and (event.stage, event.partition) == place(call)[:2]
            and event.offset > call.began.offset
        ]
        events.replace(first, attrs.evolve(first, stamp=stamp))
    return bool(call)


def commit_before_the_copy(events: Planted) -> bool:
    call = events.some(lambda call: events.once(call) and call.ended is not None and call.ended.next == DEAD)
    if call:
        for copy in [each for each in events if isinstance(each, Stored) and each.id == call.began.id and each.dead]:
            events.replace(copy, attrs.evolve(copy, stamp=int(events.commit_after(call)) // _MS + 20))
    return bool(call)


def commit_before_the_output(events: Planted) -> bool:
    call = events.some(
        lambda call: events.once(call) and call.ended is not None and call.ended.output and call.ended.next is None
    )
    if call:
        stamp = int(events.commit_after(call)) // _MS + 20
        events.drop(lambda event: isinstance(event, Output) and event.id == call.began.id)
        events.append(Output(call.began.id, stamp))
    return bool(call)


def metadata_claims_too_much(events: Planted) -> bool:
    commits = [event for event in events if isinstance(event, Committed)]
    events.random.shuffle(commits)
    for commit in commits:
        here = [event for event in events.calls if place(event)[:2] == (commit.stage, commit.partition)]
        late = [each for each in here if events.once(each) and each.began.at.wall > (commit.stamp + 5) * _MS]
        if late and late[-1].began.offset > commit.offset:
            claim = [(late[-1].began.offset, late[-1].began.offset + 1)]
            text = metadata(commit.offset, claim, bits=events.random.random() < 0.5)
            events.replace(commit, attrs.evolve(commit, metadata=text))
            return True
    return False


def commit_backwards(events: Planted) -> bool:
    commit = events.random.choice([event for event in events if isinstance(event, Committed) and event.offset > 3])
    events.append(attrs.evolve(commit, offset=1, metadata="", stamp=commit.stamp + 100_000))
    return True


def due_later(events: Planted) -> bool:
    call = events.some(lambda call: call.began.stage > 0 and call.began.key is None)
    if call:
        due = call.began.at.wall // _MS + 5
        events.replace(call.began, attrs.evolve(call.began, due=due))
    return bool(call)


def wait_cut_short(events: Planted) -> bool:
    """By the header it was due; the call that sent it there has asked for a longer wait."""
    call = events.some(lambda call: events.once(call) and ended(call).next in (1, 2))
    if call:
        events.replace(ended(call), attrs.evolve(ended(call), after=3600.0))
    return bool(call)


def _swapped(events: Planted, pair: tuple[Call, Call] | None) -> bool:
    if pair:
        before, call = pair
        events.replace(before.began, attrs.evolve(before.began, at=call.began.at))
        events.replace(ended(before), attrs.evolve(ended(before), at=ended(call).at))
        events.replace(call.began, attrs.evolve(call.began, at=before.began.at))
        events.replace(ended(call), attrs.evolve(ended(call), at=ended(before).at))
    return bool(pair)


def out_of_order_within_an_owner(events: Planted) -> bool:
    return _swapped(events, events.pair(across=False))


def out_of_order_in_a_retry_stage(events: Planted) -> bool:
    return _swapped(events, events.pair(across=False, stage=1))


def out_of_order_across_owners(events: Planted) -> bool:
    """The later record was called by the owner before, as if it had come first."""
    pair = events.pair(across=True)
    if pair:
        before, call = pair
        start = before.began.at
        events.replace(call.began, attrs.evolve(call.began, at=Moment(start.wall - 2, start.mono - 2)))
        events.replace(ended(call), attrs.evolve(ended(call), at=Moment(start.wall - 1, start.mono - 1)))
    return bool(pair)


def _overlapping(events: Planted, across: bool) -> bool:
    pair = events.pair(across)
    if pair:
        end = ended(pair[0]).at
        began = attrs.evolve(pair[1].began, at=Moment(end.wall - 1000, end.mono - 1000))
        events.replace(pair[1].began, began)
    return bool(pair)


def at_once_within_an_owner(events: Planted) -> bool:
    return _overlapping(events, across=False)


def at_once_across_owners(events: Planted) -> bool:
    return _overlapping(events, across=True)


def copy_too_many(events: Planted) -> bool:
    dead = [event for event in events if isinstance(event, Stored) and event.dead]
    copy = events.random.choice(dead)
    failed = sum(
        call.ended is not None and call.ended.next == DEAD for call in events.calls if call.began.id == copy.id
    )
    more = failed + 1 - sum(event.id == copy.id for event in dead)
    events += [attrs.evolve(copy, offset=1000 + number) for number in range(more)]
    return True


FAULTS: list[tuple[Callable[[Planted], bool], str]] = [
    (never_called, checker.LOST),
    (call_cut_off, checker.LOST),
    (copy_missing, checker.LOST),
    (dead_letter_missing, checker.LOST),
    (output_missing, checker.LOST),
    (skipped, checker.SKIPPED),
    (skipped_in_a_retry_stage, checker.SKIPPED),
    (commit_before_the_end, checker.COMMITTED_EARLY),
    (commit_before_the_copy, checker.COMMITTED_EARLY),
    (commit_before_the_output, checker.COMMITTED_EARLY),
    (metadata_claims_too_much, checker.COMMITTED_EARLY),
    (commit_backwards, checker.COMMITTED_BACKWARDS),
    (due_later, checker.EARLY),
    (wait_cut_short, checker.EARLY),
    (out_of_order_within_an_owner, checker.OUT_OF_ORDER),
    (out_of_order_in_a_retry_stage, checker.OUT_OF_ORDER),
    (out_of_order_across_owners, checker.OUT_OF_ORDER),
    (at_once_within_an_owner, checker.AT_ONCE),
    (at_once_across_owners, checker.AT_ONCE),
    (copy_too_many, checker.UNASKED),
]


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
    assert {kind for _, kind in FAULTS} | {checker.OUTPUT_TWICE} == set(checker.KINDS)


# ---- what must not raise an alarm, and what is easily overlooked


def at(ms: float) -> Moment:
    return Moment(1_800_000_000_000 * _MS + int(ms * _MS), int(ms * _MS))


def made(
    id: int, ms: float, *, pid: int = 1, offset: int | None = None, stage: int = 0, key: str | None = "k"
) -> Began:
    return Began(int(ms * 10), pid, id, stage, 0, id if offset is None else offset, key, 0, at(ms))


def over(began: Began, ms: float, then: int | None = None) -> Ended:
    return Ended(began.call, began.pid, "done" if then is None else "failed", then, 0.0, False, at(ms))


def test_an_output_twice_is_found_where_that_is_asked_for() -> None:
    events: list[Event] = next(each for each in map(sound, SEEDS) if not check(each, outputs_once=True))
    events.append(next(event for event in events if isinstance(event, Output)))
    assert kinds(events) == set()
    assert kinds(events, outputs_once=True) == {checker.OUTPUT_TWICE}


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
    assert [finding.ids for finding in check([*events, Deleted(0, [(0, 2)], at(1))])] == [(2,)]


def test_offsets_of_a_topic_that_was_created_again_are_other_records() -> None:
    asked, before, again, after = made(7, 0), made(7, 5, stage=1), made(8, 20), made(8, 25, stage=1)
    before, after = attrs.evolve(before, offset=0), attrs.evolve(after, offset=0)
    sent: list[Event] = [asked, over(asked, 1, 1), before, over(before, 6), again, over(again, 21, 1)]
    sent += [Stored(8, 1, 0, 0, at(22).wall // _MS), Committed(1, 0, 1, "", at(8).wall // _MS)]
    assert kinds([*sent, Deleted(1, None, at(10)), after, over(after, 26)]) == set()
    assert kinds([*sent, Deleted(1, None, at(10))]) == {checker.LOST}
    assert kinds([*sent, after, over(after, 26)]) != set(), "without the deletion it is a record that was lost"


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

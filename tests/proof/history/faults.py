"""Faults that are planted into sound histories, each with the finding that it has to cause."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs

from proof.history import checker
from proof.history.events import Began, Call, Committed, Ended, Event, Moment, Output, Stored, calls
from proof.history.metadata import ranges
from proof.history.sound import DEAD, metadata, output, sound, target

_MS = 1_000_000


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

    def commits(self, call: Call) -> list[Committed]:
        """Those that say it is done."""
        offset = call.began.offset
        return [
            event
            for event in self
            if isinstance(event, Committed)
            and (event.stage, event.partition) == place(call)[:2]
            and (event.offset > offset or any(s <= offset < e for s, e in ranges(event.offset, event.metadata)))
        ]

    def commit_after(self, call: Call) -> float:
        """When the first of them was stored, in ns."""
        return min(commit.stamp * _MS for commit in self.commits(call))

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
    """Nor committed, like all that its partition holds."""
    last = [call.began for call in events.calls if call.began.stage == 0][-1]
    events.drop_from(last.id, 1)
    events.drop(lambda event: isinstance(event, Began) and event.id == last.id)
    events.drop(lambda event: isinstance(event, Committed) and (event.stage, event.partition) == (0, last.partition))
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


def skipped(events: Planted, stage: int = 0) -> bool:
    call = events.some(lambda call: call.began.stage == stage)
    if call:
        events.drop_from(call.began.id, stage + 1)
        events.drop(lambda event: isinstance(event, Began) and (event.id, event.stage) == (call.began.id, stage))
    return bool(call)


def skipped_in_a_retry_stage(events: Planted) -> bool:
    return skipped(events, stage=1)


def commit_before_the_end(events: Planted) -> bool:
    """The call's end, and so all that followed it, is later than the commit."""
    call = events.some(lambda call: events.once(call) and events.commit_after(call) > ended(call).at.wall)
    if call:
        stamp = int(call.began.at.wall // _MS) - 5
        first = events.commits(call)[0]
        events.replace(first, attrs.evolve(first, stamp=stamp))
    return bool(call)


def commit_before_the_copy(events: Planted) -> bool:
    call = events.some(lambda call: events.once(call) and call.ended is not None and call.ended.next == DEAD)
    if call:
        for copy in [each for each in events if isinstance(each, Stored) and each.dead]:
            if copy.id == call.began.id:
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

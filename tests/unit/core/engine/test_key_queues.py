"""What may run now: order by key, by partition, none; what is put aside, held, dropped."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flux.core.engine.assignment import Assignment, Event
from flux.core.engine.held_back import HeldByName
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.slices import Entry, Slice
from flux.core.limits.concurrency import ConcurrencyByName
from unit.support.engine_support import P1, assignment, entry, record


def fed(key_queues: KeyQueues, owner: Assignment, *keys: bytes | None) -> list[Entry]:
    """Entries of offsets 0, 1, …, each with its key."""
    entries = [entry(owner, offset, key) for offset, key in enumerate(keys)]
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(0, len(keys))
    for one in entries:
        key_queues.add(one)
    return entries


def test_one_record_of_a_key_at_a_time_in_the_order_they_came() -> None:
    key_queues = KeyQueues("key")
    a, b, c, d = fed(key_queues, assignment(), b"x", b"x", b"y", b"x")
    assert key_queues.take(9, now=0) == [a, c]
    assert key_queues.take(9, now=0) == []
    key_queues.end(a)
    assert key_queues.take(9, now=0) == [b]
    key_queues.end(b)
    assert key_queues.take(9, now=0) == [d]


def test_two_that_are_called_again_keep_their_order() -> None:
    """The second was called while the first waited for what it had produced."""
    key_queues = KeyQueues("key")
    first, second, third = fed(key_queues, assignment(), b"x", b"x", b"x")
    for one in (first, second):
        assert key_queues.take(1, now=0) == [one]
        key_queues.end(one)
    for one in (first, second):
        key_queues.hold(one)
    for one in (first, second):
        key_queues.add_first(one)
        key_queues.release(one)
    called = []
    while taken := key_queues.take(1, now=0):
        called += taken
        key_queues.end(taken[0])
    assert called == [first, second, third]


def test_one_that_is_given_back_stands_behind_an_earlier_one_that_is_called_again() -> None:
    key_queues = KeyQueues("key")
    first, second = fed(key_queues, assignment(), b"x", b"x")
    key_queues.take(1, now=0)
    key_queues.end(first)
    assert key_queues.take(1, now=0) == [second]
    first.tries = 1
    key_queues.add_first(first)
    key_queues.give_back([second])
    assert key_queues.take(2, now=0) == [first]
    key_queues.end(first)
    assert key_queues.take(2, now=0) == [second]


def test_a_null_key_orders_nothing_and_an_empty_one_does() -> None:
    key_queues = KeyQueues("key")
    a, b, c, _ = fed(key_queues, assignment(), None, None, b"", b"")
    assert key_queues.take(9, now=0) == [a, b, c]


def test_the_same_key_of_two_partitions_is_two_keys() -> None:
    key_queues = KeyQueues("key")
    [a], [b] = fed(key_queues, assignment(), b"x"), fed(key_queues, assignment(partition=P1), b"x")
    assert key_queues.take(9, now=0) == [a, b]


def test_a_partition_orders_all_of_its_records_null_keys_too() -> None:
    key_queues = KeyQueues("partition")
    a, b, _ = fed(key_queues, assignment(), b"x", None, b"y")
    assert key_queues.take(9, now=0) == [a]
    key_queues.end(a)
    assert key_queues.take(9, now=0) == [b]


def test_no_order_lets_all_run() -> None:
    key_queues = KeyQueues("none")
    entries = fed(key_queues, assignment(), b"x", b"x", b"x")
    assert key_queues.take(2, now=0) == entries[:2]
    assert key_queues.take(2, now=0) == entries[2:]


def test_what_was_taken_and_not_begun_comes_back_first_and_in_order() -> None:
    key_queues = KeyQueues("key")
    a, b, c, d = fed(key_queues, assignment(), b"a", b"b", b"c", b"d")
    assert key_queues.take(3, now=0) == [a, b, c]
    key_queues.give_back([b, c])
    assert key_queues.take(9, now=0) == [b, c, d]


def test_a_held_key_waits_and_the_others_go_on() -> None:
    key_queues = KeyQueues("key")
    owner = assignment()
    kept = entry(owner, 0, b"x")
    key_queues.hold(kept)
    a, b = fed(key_queues, owner, b"x", b"y")
    assert key_queues.take(9, now=0) == [b]
    key_queues.release(kept)
    assert key_queues.take(9, now=0) == [a]


def test_a_hold_takes_back_what_was_ready_before_what_is_queued() -> None:
    key_queues = KeyQueues("key")
    owner = assignment()
    a, b = fed(key_queues, owner, b"x", b"x")
    kept = entry(owner, 9, b"x")
    key_queues.hold(kept)
    assert key_queues.take(9, now=0) == []
    key_queues.release(kept)
    assert key_queues.take(9, now=0) == [a]
    key_queues.end(a)
    assert key_queues.take(9, now=0) == [b]


def test_a_key_held_twice_needs_two_releases() -> None:
    key_queues = KeyQueues("key")
    owner = assignment()
    first, second = entry(owner, 0, b"x"), entry(owner, 1, b"x")
    key_queues.hold(first)
    key_queues.hold(second)
    [a] = fed(key_queues, owner, b"x")
    key_queues.release(second)
    assert key_queues.take(9, now=0) == []
    key_queues.release(first)
    assert key_queues.take(9, now=0) == [a]


def test_a_call_that_runs_when_its_key_is_held_ends_and_starts_no_other() -> None:
    key_queues = KeyQueues("key")
    owner = assignment()
    a, b = fed(key_queues, owner, b"x", b"x")
    assert key_queues.take(9, now=0) == [a]
    kept = entry(owner, 9, b"x")
    key_queues.hold(kept)
    key_queues.end(a)
    assert key_queues.take(9, now=0) == []
    key_queues.release(kept)
    assert key_queues.take(9, now=0) == [b]


def crowded() -> tuple[KeyQueues, Assignment]:
    """A partition whose metadata has room for 8 offsets and three run lengths."""
    owner = assignment(max_metadata=16 + 2)
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(0, 100)
    return KeyQueues("key"), owner


def test_a_record_that_the_metadata_has_no_room_for_is_put_aside_until_the_position_moves() -> None:
    key_queues, owner = crowded()
    far, low = entry(owner, 50, b"far"), entry(owner, 0, b"low")
    key_queues.add(far)
    key_queues.add(low)
    assert key_queues.take(9, now=0) == [low]
    assert key_queues.ready(now=0) == 0
    assert len(key_queues) == 1
    assert owner.offset_tracker is not None
    owner.offset_tracker.done(0, 50)
    key_queues.end(low)
    key_queues.retry_aside()
    assert key_queues.take(9, now=0) == [far]


def test_a_hold_takes_back_what_was_put_aside() -> None:
    key_queues, owner = crowded()
    far, next_far, low = entry(owner, 50, b"x"), entry(owner, 51, b"x"), entry(owner, 0, b"low")
    for one in (far, next_far, low):
        key_queues.add(one)
    assert key_queues.take(9, now=0) == [low]
    kept = entry(owner, 40, b"x")
    key_queues.hold(kept)
    assert owner.offset_tracker is not None
    owner.offset_tracker.done(0, 50)
    key_queues.end(low)
    key_queues.retry_aside()
    assert key_queues.take(9, now=0) == []
    key_queues.release(kept)
    assert key_queues.take(9, now=0) == [far]
    key_queues.end(far)
    assert key_queues.take(9, now=0) == [next_far]


@pytest.mark.parametrize("late", [False, True])
def test_a_record_without_room_runs_when_the_position_waits_behind_it(late: bool) -> None:
    key_queues, owner = crowded()
    far, low = entry(owner, 50, b"x"), entry(owner, 0, b"x")
    key_queues.add(far)
    if late:
        assert key_queues.take(9, now=0) == []
    key_queues.add(low)
    assert key_queues.take(9, now=0) == [far]
    key_queues.end(far)
    assert key_queues.take(9, now=0) == [low]


def test_what_is_dropped_is_never_taken_and_its_ends_start_nothing() -> None:
    key_queues = KeyQueues("key")
    gone, stays = assignment(), assignment(partition=P1)
    a, _, _ = fed(key_queues, gone, b"x", b"x", b"y")
    [other] = fed(key_queues, stays, b"x")
    kept = entry(gone, 9, b"x")
    assert key_queues.take(1, now=0) == [a]
    key_queues.hold(kept)
    gone.to(Event.LOST)
    key_queues.drop(gone)
    key_queues.end(a)
    key_queues.release(kept)
    assert key_queues.take(9, now=0) == [other]
    assert len(key_queues) == 0


class LanesMachine(RuleBasedStateMachine):
    """Random adds, takes, ends, returns, holds, releases and drops beside a plain list of what waits."""

    ordering: Any = "key"

    def __init__(self) -> None:
        super().__init__()
        self.key_queues = KeyQueues(self.ordering)
        self.owners = [assignment(), assignment(partition=P1)]
        self.waiting: list[Entry] = []
        self.running: list[Entry] = []
        self.held: list[Entry] = []
        self.offset = 0

    def name(self, one: Entry) -> Any:
        key = one.message.key
        if self.ordering == "none" or (self.ordering == "key" and key is None):
            return object()
        return (id(one.assignment), key if self.ordering == "key" else None)

    @rule(owner=st.integers(0, 1), key=st.sampled_from([None, b"", b"a", b"b"]))
    def add(self, owner: int, key: bytes | None) -> None:
        one = entry(self.owners[owner], self.offset, key)
        assert one.assignment.offset_tracker is not None
        one.assignment.offset_tracker.delivered(self.offset, self.offset + 1)
        self.offset += 1
        self.key_queues.add(one)
        self.waiting.append(one)

    @rule(most=st.integers(1, 3))
    def take(self, most: int) -> None:
        taken = self.key_queues.take(most, now=0)
        held, busy = {self.name(one) for one in self.held}, {self.name(one) for one in self.running}
        for one in taken:
            name = self.name(one)
            assert name not in held
            assert name not in busy
            busy.add(name)
            first = next(other for other in self.waiting if other is one or self.name(other) == name)
            assert first is one
            self.waiting.remove(one)
        if len(taken) < most:
            for one in self.waiting:
                assert self.name(one) in held | busy, "kept back for nothing"
        self.running += taken

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: Any) -> None:
        one = data.draw(st.sampled_from(self.running))
        self.running.remove(one)
        self.key_queues.end(one)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        one = data.draw(st.sampled_from(self.running))
        self.running.remove(one)
        self.waiting.append(one)
        self.waiting.sort(key=lambda other: other.offset)
        self.key_queues.give_back([one])

    @rule(owner=st.integers(0, 1), key=st.sampled_from([None, b"a"]))
    def hold(self, owner: int, key: bytes | None) -> None:
        one = entry(self.owners[owner], 0, key)
        self.key_queues.hold(one)
        self.held.append(one)

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        self.key_queues.release(self.held.pop(0))

    @rule(owner=st.integers(0, 1))
    def drop(self, owner: int) -> None:
        gone = self.owners[owner]
        gone.to(Event.LOST)
        self.key_queues.drop(gone)
        self.owners[owner] = assignment(partition=gone.partition)
        offset_tracker = self.owners[owner].offset_tracker
        assert offset_tracker is not None
        offset_tracker.delivered(self.offset, self.offset)
        for ones in (self.running, self.held):
            for one in [one for one in ones if one.assignment is gone]:
                ones.remove(one)
                (self.key_queues.end if ones is self.running else self.key_queues.release)(one)
        self.waiting = [one for one in self.waiting if one.assignment is not gone]

    @invariant()
    def counted(self) -> None:
        assert len(self.key_queues) == len(self.waiting)
        in_key_queues: dict[int, int] = defaultdict(int)
        for one in self.waiting + self.running + self.held:
            in_key_queues[id(one.assignment)] += 1
        for owner in self.owners:
            assert owner.in_key_queues == in_key_queues[id(owner)]


class PartitionLanesMachine(LanesMachine):
    ordering = "partition"


class FreeLanesMachine(LanesMachine):
    ordering = "none"


TestKeys = LanesMachine.TestCase
TestPartitions = PartitionLanesMachine.TestCase
TestNoOrder = FreeLanesMachine.TestCase
for case in (TestKeys, TestPartitions, TestNoOrder):
    case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_nobody_has_taken_needs_no_room_in_the_metadata() -> None:
    key_queues = KeyQueues("none")
    owner = assignment()
    assert owner.offset_tracker is not None
    far = 1_000_000  # beyond what a bitmap holds, so every call in flight needs room for a range of its own
    owner.offset_tracker.delivered(0, far * 2)
    for number in range(2_000):
        key_queues.add(entry(owner, far + number, None))
    assert len(key_queues.take(10, now=0)) == 10


# -- claims


def slice_of(owner: Assignment, keys: str, first: int = 0) -> Slice:
    """A slice of records with a letter each as key; "-": none."""
    records = [record(first + n, None if key == "-" else key.encode()) for n, key in enumerate(keys)]
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(first, first + len(keys))
    return Slice(records, first + len(keys))


def offsets_of(entries: list[Entry]) -> list[int]:
    return [one.offset for one in entries]


@pytest.mark.parametrize(("ordering", "names"), [("key", 2), ("none", 0)])
def test_a_claim_takes_the_keys_of_its_records(ordering: Any, names: int) -> None:
    key_queues, owner = KeyQueues(ordering), assignment()
    claim = key_queues.claim(owner, slice_of(owner, "a-ab"), 3)
    assert (claim.indices, claim.stop) == ([0, 1, 2], 3)
    assert len(claim.last) == (1 if names else 0)
    whole = key_queues.claim(owner, slice_of(owner, "cd", 4), 9)
    assert (whole.indices, whole.stop) == ([0, 1], 2)


def test_a_record_whose_key_is_claimed_waits_until_the_last_of_the_claim_has_ended() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    claim = key_queues.claim(owner, slice_of(owner, "abab"), 9)
    later = key_queues.claim(owner, slice_of(owner, "cab", 4), 9)
    assert later.indices == [0]
    assert (len(key_queues), key_queues.take(9, now=0)) == (2, [])
    key_queues.end_claims(claim, 0, 2)
    assert key_queues.take(9, now=0) == []
    key_queues.end_claims(claim, 2, 3)
    assert offsets_of(key_queues.take(9, now=0)) == [5]
    key_queues.end_claims(claim, 3, 4)
    assert offsets_of(key_queues.take(9, now=0)) == [6]
    key_queues.end_claims(later, 0, 1)


def test_a_claim_that_nobody_waits_for_leaves_nothing() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    claim = key_queues.claim(owner, slice_of(owner, "a-a"), 9)
    assert key_queues
    key_queues.end_claims(claim, 0, 3)
    assert not key_queues


def test_a_claim_whose_partition_was_dropped_ends_without_effect() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    claim = key_queues.claim(owner, slice_of(owner, "ab"), 9)
    key_queues.drop(owner)
    key_queues.end_claims(claim, 0, 2)
    assert not key_queues


def test_what_a_claim_gives_back_goes_before_the_records_that_wait_for_its_keys() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    piece = slice_of(owner, "abc-a")
    claim = key_queues.claim(owner, piece, 9)
    key_queues.claim(owner, slice_of(owner, "ba", 5), 9)
    begun = piece.entry(owner, 0, piece.message(0))
    key_queues.begin(begun)
    free = key_queues.give_back_claims(claim, piece, 1, begun)
    assert free == [2, 3]
    assert offsets_of(key_queues.take(9, now=0)) == [1]
    key_queues.end(begun)
    assert offsets_of(key_queues.take(9, now=0)) == [4]


def test_a_key_without_a_call_is_held_too() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    first, second = (entry(owner, offset, b"x") for offset in (0, 1))
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(0, 2)
    key_queues.hold(first)
    key_queues.add_first(second)
    assert key_queues.take(9, now=0) == []
    key_queues.release(first)
    assert key_queues.take(9, now=0) == [second]
    assert key_queues.deadline() is None


def test_a_record_without_a_key_that_is_called_again_or_running_needs_no_queue() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    running, again = (entry(owner, offset, None) for offset in (0, 1))
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(0, 2)
    key_queues.begin(running)
    key_queues.add_first(again)
    assert key_queues.take(9, now=0) == [again]
    key_queues.end(running)
    key_queues.end(again)
    assert (owner.in_key_queues, owner.in_flight, bool(key_queues)) == (0, 0, False)


def test_a_record_that_is_called_again_takes_a_key_that_is_free() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    first, second = (entry(owner, offset, b"x") for offset in (0, 1))
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(0, 2)
    key_queues.add_first(first)
    key_queues.add(second)
    assert key_queues.take(9, now=0) == [first]


def test_without_any_room_the_record_at_the_committable_offset_runs_alone() -> None:
    key_queues, owner = KeyQueues("key"), assignment(max_metadata=16)
    first, second = fed(key_queues, owner, b"x", b"y")
    assert key_queues.take(9, now=0) == [first]
    key_queues.end(first)
    assert owner.offset_tracker is not None
    owner.offset_tracker.done(0, 1)
    key_queues.retry_aside()
    assert key_queues.take(9, now=0) == [second]


def test_what_a_claim_gave_back_leaves_nothing_when_all_have_ended() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    piece = slice_of(owner, "abc-a")
    claim = key_queues.claim(owner, piece, 9)
    key_queues.claim(owner, slice_of(owner, "ba", 5), 9)
    begun = piece.entry(owner, 0, piece.message(0))
    key_queues.begin(begun)
    key_queues.give_back_claims(claim, piece, 1, begun)
    key_queues.end(begun)
    assert owner.in_key_queues == 4
    called = []
    while taken := key_queues.take(1, now=0):
        assert taken[0].message.offset == taken[0].offset
        called += offsets_of(taken)
        key_queues.end(taken[0])
    assert sorted(called) == [1, 4, 5, 6]
    assert called.index(1) < called.index(5)
    assert called.index(4) < called.index(6)
    assert (owner.in_key_queues, owner.in_flight, bool(key_queues)) == (0, 0, False)


def test_the_end_of_a_claims_later_record_does_not_free_the_key_of_an_earlier_one() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    claim = key_queues.claim(owner, slice_of(owner, "ab"), 9)
    key_queues.end_claims(claim, 0, 1)
    running, waiting = entry(owner, 2, b"a"), entry(owner, 3, b"a")
    key_queues.add(running)
    assert key_queues.take(9, now=0) == [running]
    key_queues.add(waiting)
    key_queues.end_claims(claim, 1, 2)
    assert key_queues.take(9, now=0) == []


def test_calls_that_run_already_are_counted_and_have_their_keys() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    for offset, key in enumerate((b"a", b"b")):
        key_queues.begin(entry(owner, offset, key))
    assert (owner.in_key_queues, owner.in_flight) == (2, 2)
    key_queues.add(entry(owner, 2, b"a"))
    assert key_queues.take(9, now=0) == []


def test_records_without_order_are_queued_until_they_are_taken() -> None:
    key_queues = KeyQueues("none")
    fed(key_queues, assignment(), b"a")
    assert key_queues
    key_queues.take(9, now=0)
    assert not key_queues


def test_records_that_were_set_aside_are_set_aside_once() -> None:
    key_queues, owner = crowded()
    key_queues.add(entry(owner, 50, b"far"))
    assert key_queues.take(9, now=0) == []
    key_queues.retry_aside()
    assert (len(key_queues), key_queues.ready(now=0)) == (1, 1)


def test_what_was_set_aside_of_another_partition_stays_when_one_is_dropped() -> None:
    key_queues, gone = crowded()
    stays = assignment(partition=P1, max_metadata=16 + 2)
    assert stays.offset_tracker is not None
    stays.offset_tracker.delivered(0, 100)
    for owner in (gone, stays):
        key_queues.add(entry(owner, 50, b"far"))
    assert key_queues.take(9, now=0) == []
    key_queues.drop(gone)
    key_queues.retry_aside()
    assert (len(key_queues), key_queues.ready(now=0)) == (1, 1)
    stays.offset_tracker.done(0, 50)
    assert [one.assignment for one in key_queues.take(9, now=0)] == [stays]


def test_what_is_given_back_is_not_in_flight() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    fed(key_queues, owner, b"x", b"y")
    key_queues.give_back(key_queues.take(2, now=0))
    assert owner.in_flight == 0
    key_queues.take(1, now=0)
    assert owner.in_flight == 1


def test_records_that_are_open_take_room_in_the_metadata_beside_those_that_run() -> None:
    owner = assignment(max_metadata=16 + 20)  # of 127 offsets, seven ranges fit
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(0, 127)
    key_queues = KeyQueues("none")
    for offset in (124, 125, 126):
        key_queues.add(entry(owner, offset))
    owner.open.update(dict.fromkeys(entry(owner, offset) for offset in range(10, 20, 2)))
    assert len(key_queues.take(9, now=0)) == 2


def test_a_key_is_taken_while_a_record_of_it_is_queued_or_running() -> None:
    key_queues, owner = KeyQueues("key"), assignment()
    first, other = entry(owner, 0), entry(owner, 1, b"other")
    assert not key_queues.has(first)
    key_queues.add(first)
    assert key_queues.has(entry(owner, 2))
    assert not key_queues.has(other)


def test_what_a_name_holds_back_counts_opens_and_is_held_and_dropped_as_the_rest() -> None:
    calls = ConcurrencyByName(1, lambda message: "all")
    key_queues, owner = KeyQueues("key", HeldByName([calls], lambda log_event: None)), assignment()
    a, b, c = fed(key_queues, owner, b"x", b"y", b"z")
    assert key_queues.take(9, now=0) == [a]
    assert (len(key_queues), bool(key_queues), key_queues.ready(0), key_queues.deadline()) == (2, True, 0, None)
    key_queues.hold(b)
    key_queues.give_back([a])
    assert key_queues.ready(0) == 2
    assert key_queues.take(9, now=0) == [c]
    key_queues.end(c)
    assert key_queues.take(9, now=0) == [a]
    key_queues.release(b)
    assert key_queues.take(9, now=0) == []
    key_queues.drop(owner)
    key_queues.end(a)
    assert key_queues.take(9, now=0) == []


def test_others_of_a_name_need_not_wait_for_one_that_the_metadata_has_no_room_for() -> None:
    calls = ConcurrencyByName(1, lambda message: "all")
    key_queues, other = KeyQueues("none", HeldByName([calls], lambda log_event: None)), assignment()
    full = assignment(max_metadata=0)
    running, refused, waiting = entry(other, 0), entry(full, 5), entry(other, 1)
    key_queues.add(running)
    assert key_queues.take(9, now=0) == [running]
    held_back = key_queues._held_back
    assert held_back is not None
    for each in (refused, waiting):
        assert not held_back.admits(each, 0)
    key_queues.end(running)
    assert key_queues.take(9, now=0) == []
    assert key_queues.ready(0) == 1
    assert key_queues.take(9, now=0) == [waiting]

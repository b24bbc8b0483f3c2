"""Places in the order of a key, and records that wait in memory."""

from __future__ import annotations

from flux.core.engine.key_order import KeyOrder, OrderEntry
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.order_places import Holds, Parked, Room, follower_of, holds_back, place_of, place_of_copy
from flux.core.engine.slices import Entry
from flux.core.ports import Headers
from unit.support.engine_support import P1, FakeRecord, assignment, entry, message, record


def retry(headers: Headers, key: bytes | None = b"k") -> Entry:
    return Entry(assignment(), message(record(3, key, headers=headers), 1), 3, 4)


def origin(*more: tuple[str, bytes]) -> Headers:
    where = [("topic", b"t"), ("partition", b"2"), ("offset", b"9")]
    return [*((f"flux-origin-{name}", value) for name, value in where), *more]


def test_in_the_main_topic_a_record_is_at_its_own_place() -> None:
    assert place_of(entry(assignment(partition=P1), 5), True) == ((1, b"k"), (1, 5), -1)


def test_in_a_retry_topic_it_is_where_it_came_from() -> None:
    assert place_of(retry(origin(("flux-order", b"7"))), False) == ((2, b"k"), (2, 9), 7)


def test_a_record_without_key_entry_or_origin_has_no_place() -> None:
    assert place_of(entry(assignment(), 5, None), True) is None
    assert place_of(retry(origin()), False) is None
    assert place_of(retry([("flux-order", b"7")]), False) is None


def test_copies_of_followers_are_found_by_key() -> None:
    view = KeyOrder()
    follower, other = OrderEntry(b"k", 1, 5, 0, follows=True), OrderEntry(b"k", 1, 5, 1)
    entries = [FakeRecord(7, b"2:9", follower.value()), FakeRecord(8, b"2:10", other.value())]
    view.take(entries)
    copy = retry(origin(("flux-order", b"7"))).message
    assert place_of_copy(copy) == ((2, b"k"), (2, 9), 7)
    assert follower_of({(2, b"k")}, view)(copy)
    assert not follower_of({(1, b"k"), (2, b"j")}, view)(copy)
    assert not follower_of({(2, b"k")}, view)(retry(origin()).message)
    failed = [("flux-origin-topic", b"t"), ("flux-origin-partition", b"2"), ("flux-origin-offset", b"10")]
    assert not follower_of({(2, b"k")}, view)(retry([*failed, ("flux-order", b"8")]).message)


def test_records_wait_by_key_in_order() -> None:
    parked, owner, other = Parked(), assignment(), assignment(partition=P1)
    first, second, third = entry(owner, 1), entry(other, 2), entry(owner, 3)
    for each in (first, second, third):
        parked.add((0, b"k"), each)
    assert (len(parked), list(parked), (0, b"k") in parked) == (3, [(0, b"k")], True)
    assert parked.has_any(other)
    parked.discard(lambda each: each.assignment is other)
    assert not parked.has_any(other)
    assert parked.take((0, b"k")) == [first, third]
    assert (len(parked), parked.take((0, b"k")), (0, b"k") in parked) == (0, [], False)


def test_a_key_is_held_until_it_is_released_or_its_partition_is_gone() -> None:
    key_queues, owner, other = KeyQueues("key"), assignment(), assignment(partition=P1)
    holds, first, second = Holds(key_queues), entry(owner, 1), entry(other, 2)
    holds.hold(first)
    holds.hold(second)
    assert key_queues.has(entry(owner, 5))
    holds.release(first)
    holds.release(first)
    assert not key_queues.has(entry(owner, 5))
    holds.forget(other)
    holds.release(second)
    assert second.key_queue.holds == 1


def test_only_records_of_the_main_stage_with_a_key_hold_it() -> None:
    key_queues = KeyQueues("key")
    holds, keyless, retried = Holds(key_queues), entry(assignment(), 1, None), retry(origin())
    for each in (keyless, retried):
        holds.hold(each)
    holds.release_all([keyless, retried])
    assert not key_queues
    first = entry(assignment(), 1)
    holds.hold(first)
    holds.release_all([first])
    assert not key_queues.has(first)


def test_a_record_that_the_metadata_has_no_room_for_waits_unless_all_wait_for_it() -> None:
    owner, room = assignment(max_metadata=0), Room()
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(0, 3)
    assert not room.has(entry(owner, 1), (0, b"k"))
    assert list(room.narrow) == [(0, b"k")]
    assert room.has(entry(owner, 0), (0, b"o"))
    assert [holds_back(entry(owner, offset)) for offset in (0, 1)] == [True, False]
    assert room.has(entry(assignment(), 1), (0, b"w"))


def test_room_is_looked_for_when_something_of_a_partition_was_done_since_the_last_look() -> None:
    owner, room = assignment(max_metadata=0), Room()
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(0, 3)
    assert not room.may_be_wider([owner]), "nothing waits"
    assert not room.has(entry(owner, 1), (0, b"k"))
    assert room.may_be_wider([owner]), "the first look"
    assert not room.may_be_wider([owner])
    owner.offset_tracker.done(0, 1)
    assert room.may_be_wider([owner])
    owner.in_flight += 1
    assert room.may_be_wider([owner])
    assert not room.may_be_wider([owner])


def test_in_the_main_stage_records_of_a_key_wait_in_the_order_of_their_offsets() -> None:
    parked, owner, name = Parked(main=True), assignment(), (0, b"k")
    assert not parked.has_before(name, 9)
    entries = [entry(owner, offset) for offset in (4, 2, 3)]
    for each in entries:
        parked.add(name, each)
    assert [parked.has_before(name, offset) for offset in (1, 2, 3)] == [False, False, True]
    assert [each.offset for each in parked.take(name)] == [2, 3, 4]

"""Members come, go and get stuck: who owns what, and what their listeners hear."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.adapters.memory.group import Group, Member
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset
from unit.support.memory_support import START, Kit, tp, values


def test_a_second_member_takes_half_and_only_what_moves_is_revoked() -> None:
    kit = Kit(partitions=4)
    kit.broker.create_topic("t", 4)
    first, heard_first = kit.consumer()
    second, heard_second = kit.consumer()
    first.poll(1, 0)
    second.poll(1, 0)
    assert heard_second.heard == []
    first.poll(1, 0)
    second.poll(1, 0)
    assert heard_first.heard == [("assigned", [0, 1, 2, 3]), ("revoked", [2, 3])]
    assert heard_second.heard == [("assigned", [2, 3])]


def test_the_new_owner_gets_a_partition_only_after_revoked_has_returned() -> None:
    kit = Kit()
    kit.broker.create_topic("t", 2)
    first, heard_first = kit.consumer()
    second, heard_second = kit.consumer()
    first.poll(1, 0)
    second.poll(1, 0)
    heard_first.on_revoked = lambda: second.poll(1, 0)
    first.poll(1, 0)
    assert heard_second.heard == []
    second.poll(1, 0)
    assert heard_second.heard == [("assigned", [1])]


def test_a_waiting_member_takes_over_as_soon_as_the_other_has_closed() -> None:
    kit = Kit()
    kit.write(b"v")
    first, heard_first = kit.consumer()
    second, heard_second = kit.consumer()
    first.poll(1, 0)
    kit.system.after(3, first.close)
    assert values(second.poll(1, 60)) == [b"v"]
    assert kit.system.now() - START == 3
    assert heard_first.heard == [("assigned", [0]), ("revoked", [0])]
    assert heard_second.heard == [("assigned", [0])]


def test_what_is_committed_inside_revoked_is_where_the_new_owner_starts() -> None:
    kit = Kit()
    kit.broker.create_topic("t", 2)
    kit.write(b"a0", b"b0", b"a1", b"b1")
    first, heard_first = kit.consumer()
    second, _ = kit.consumer()
    first.poll(10, 0)
    heard_first.on_revoked = lambda: first.commit_now({tp(1): CommittedOffset(1)}, 1)
    second.poll(10, 0)
    first.poll(10, 0)
    assert values(second.poll(10, 0)) == [b"b1"]


def test_a_listener_may_use_its_consumer() -> None:
    kit = Kit()
    kit.write(b"0")
    consumer, listener = kit.consumer()
    listener.on_assigned = lambda: consumer.pause([tp(0)])
    assert values(consumer.poll(1, 0)) == [b"0"], "a partition starts unpaused, whatever was paused before"

    def pause_and_commit() -> None:
        consumer.pause([tp(0)])
        consumer.commit_now({tp(0): CommittedOffset(1)}, 1)

    listener.on_revoked = pause_and_commit
    consumer.close()
    assert kit.broker.committed_offsets("g", "t") == {0: CommittedOffset(1)}


def test_a_pause_does_not_outlive_a_revocation() -> None:
    kit = Kit()
    kit.broker.create_topic("t", 2)
    kit.write(b"a", b"b")
    first, heard_first = kit.consumer()
    first.poll(1, 0)
    first.pause([tp(1)])
    second, _ = kit.consumer()
    second.poll(1, 0)
    first.poll(1, 0)
    second.close()
    assert values(first.poll(10, 0)) == [b"b"]
    assert heard_first.heard == [("assigned", [0, 1]), ("revoked", [1]), ("assigned", [1])]


def test_members_of_one_group_get_only_partitions_of_their_own_topic() -> None:
    kit = Kit()
    kit.broker.create_topic("t", 2)
    kit.broker.create_topic("u", 2)
    one, heard_one = kit.consumer("t")
    other, heard_other = kit.consumer("u")
    for _ in range(2):
        one.poll(1, 0)
        other.poll(1, 0)
    assert heard_one.heard == [("assigned", [0, 1])]
    assert heard_other.heard == [("assigned", [0, 1])]


def test_two_groups_read_everything_each() -> None:
    kit = Kit()
    kit.write(b"v")
    for group in ("g", "h"):
        consumer, _ = kit.consumer(group=group)
        assert values(consumer.poll(1, 0)) == [b"v"]


def test_partitions_added_to_a_topic_are_assigned_and_wake_who_waits() -> None:
    kit = Kit()
    kit.broker.create_topic("t", 1)
    consumer, listener = kit.consumer()
    kit.system.after(2, lambda: kit.broker.grow_topic("t", 3))
    consumer.poll(1, 10)
    assert listener.heard == [("assigned", [0]), ("assigned", [1, 2])]


def test_a_member_that_does_not_poll_loses_its_partitions_to_one_that_waits() -> None:
    kit = Kit()
    kit.write(b"v")
    stuck, heard_stuck = kit.consumer()
    waiting, heard_waiting = kit.consumer()
    stuck.poll(1, 0)
    assert values(waiting.poll(1, 1000)) == [b"v"]
    assert kit.system.now() - START == stuck.max_poll_interval
    assert heard_waiting.heard == [("assigned", [0])]
    with pytest.raises(BrokerError) as raised:
        stuck.commit_now({tp(0): CommittedOffset(1)}, 1)
    assert raised.value.fault is Fault.FENCED
    stuck.poll(1, 0)
    assert heard_stuck.heard == [("assigned", [0]), ("lost", [0])]
    assert kit.broker.committed_offsets("g", "t") == {}


def test_a_waiting_poll_is_no_stuck_member() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    consumer, listener = kit.consumer()
    consumer.poll(1, 10_000)
    consumer.commit_now({tp(0): CommittedOffset(0)}, 1)
    assert listener.heard == [("assigned", [0])]


def test_a_member_that_dies_inside_a_waiting_poll_is_evicted_too() -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    kit = Kit()
    kit.broker.create_topic("t")
    dead, _ = kit.consumer()
    other, heard_other = kit.consumer()
    kit.system.after(1, kill)
    with pytest.raises(Killed):
        dead.poll(1, 5)
    other.poll(1, 5 + dead.max_poll_interval)
    assert heard_other.heard == [("assigned", [0])]


def test_a_late_member_alone_in_its_group_loses_its_partitions_and_joins_again() -> None:
    kit = Kit()
    kit.write(b"v")
    consumer, listener = kit.consumer()
    consumer.poll(1, 0)
    kit.system.sleep(consumer.max_poll_interval + 1)
    answers: list[BrokerError | None] = []
    consumer.commit({tp(0): CommittedOffset(1)}, answers.append)
    assert values(consumer.poll(1, 0)) == [b"v"]
    assert [error and error.fault for error in answers] == [Fault.FENCED]
    assert listener.heard == [("assigned", [0]), ("lost", [0]), ("assigned", [0])]
    consumer.commit_now({tp(0): CommittedOffset(1)}, 1)


def test_a_member_that_drains_longer_than_its_interval_is_evicted_meanwhile() -> None:
    kit = Kit()
    kit.broker.create_topic("t", 2)
    slow, heard_slow = kit.consumer()
    other, heard_other = kit.consumer()
    slow.poll(1, 0)
    other.poll(1, 0)

    def drain_too_long() -> None:
        heard_slow.on_revoked = lambda: None
        kit.system.sleep(slow.max_poll_interval - 1)
        other.poll(1, 0)
        kit.system.sleep(2)
        other.poll(1, 0)

    heard_slow.on_revoked = drain_too_long
    slow.poll(1, 0)
    assert heard_slow.heard == [("assigned", [0, 1]), ("revoked", [1]), ("lost", [0])]
    assert heard_other.heard == [("assigned", [0, 1])]


def test_closing_after_an_eviction_tells_what_was_lost_and_leaves_the_new_owner_alone() -> None:
    kit = Kit()
    kit.write(b"v")
    stuck, heard_stuck = kit.consumer()
    other, heard_other = kit.consumer()
    stuck.poll(1, 0)
    other.poll(1, 1000)
    stuck.close()
    other.poll(1, 0)
    assert heard_stuck.heard == [("assigned", [0]), ("lost", [0])]
    assert heard_other.heard == [("assigned", [0])]


def test_a_member_may_commit_what_it_no_longer_owns_as_in_kafka() -> None:
    kit = Kit()
    kit.broker.create_topic("t", 2)
    first, _ = kit.consumer()
    second, _ = kit.consumer()
    for _ in range(2):
        first.poll(1, 0)
        second.poll(1, 0)
    first.commit_now({tp(1): CommittedOffset(0, "not mine")}, 1)
    assert kit.broker.committed_offsets("g", "t") == {1: CommittedOffset(0, "not mine")}


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 12), st.lists(st.tuples(st.sampled_from(["join", "leave", "resize"]), st.integers(0, 12))))
def test_every_assignment_is_even_whole_and_moves_no_more_than_it_must(
    partitions: int, changes: list[tuple[str, int]]
) -> None:
    group = Group(partitions, lambda: None)
    for change, number in changes:
        before, members = dict(group.target), list(group.members)
        if change == "join":
            group.join(Member(300, 0))
        elif change == "leave" and members:
            group.leave(members[number % len(members)])
        elif change == "resize" and number >= partitions:
            partitions = number
            group.resize(partitions)
        if not group.members:
            assert group.target == {}
            continue
        shares = [sum(owner is m for owner in group.target.values()) for m in group.members]
        assert sum(shares) == len(group.target) == partitions
        assert max(shares) - min(shares) <= 1
        moved = sum(group.target[p] is not m for p, m in before.items() if m in group.members)
        assert moved <= (min(shares) + 1 if change == "join" else 0)


def test_a_member_that_gets_nothing_hears_so_once() -> None:
    kit = Kit()
    kit.broker.create_topic("t", 1)
    first, _ = kit.consumer()
    second, heard_second = kit.consumer()
    first.poll(1, 0)
    second.poll(1, 0)
    second.poll(1, 0)
    assert heard_second.told_of_nothing == 1
    assert heard_second.heard == []

"""Polling, positions and pauses of one consumer."""

from __future__ import annotations

import pytest

from flux.core.errors import BrokerError, Fault
from flux.core.ports import BEGINNING, END, CommittedOffset, ProducerRecord
from unit.support.memory_support import START, Kit, tp, values


def test_a_poll_brings_whole_batches_by_partition_and_no_more_than_asked() -> None:
    kit = Kit(partitions=2)
    kit.write(b"a0", b"b0", b"a1", b"b1")
    consumer, _ = kit.consumer()
    polled = consumer.poll(3, 0)
    assert [(batch.partition, [r.value() for r in batch.records]) for batch in polled.batches] == [
        (tp(0), [b"a0", b"a1"]),
        (tp(1), [b"b0"]),
    ]
    assert values(consumer.poll(3, 0)) == [b"b1"]


def test_a_full_partition_does_not_starve_the_others() -> None:
    kit = Kit(partitions=3)
    kit.write(*[ProducerRecord(b"v", partition=p) for p in range(3) for _ in range(100)])
    consumer, _ = kit.consumer()
    assert [consumer.poll(10, 0).batches[0].partition.partition for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_an_empty_poll_waits_its_whole_timeout_in_one_sleep() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    consumer, _ = kit.consumer()
    assert not consumer.poll(10, 5).batches
    assert (kit.system.now() - START, kit.system.waits) == (5, 1)


def test_a_waiting_poll_is_woken_by_a_record() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    consumer, _ = kit.consumer()
    kit.system.after(2, lambda: kit.write(b"v"))
    assert values(consumer.poll(10, 60)) == [b"v"]
    assert kit.system.now() - START == 2


def test_a_waiting_poll_is_not_woken_by_a_record_of_another_topic() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    consumer, _ = kit.consumer()
    kit.system.after(2, lambda: kit.write(b"v", topic="other"))
    consumer.poll(10, 60)
    assert (kit.system.now() - START, kit.system.waits) == (60, 1)


def test_a_topic_that_does_not_exist_is_named_and_consumed_once_it_does() -> None:
    kit = Kit()
    consumer, listener = kit.consumer()
    with pytest.raises(BrokerError, match="topic t") as raised:
        consumer.poll(10, 60)
    assert raised.value.fault is Fault.UNKNOWN_TOPIC
    kit.write(b"first")
    assert values(consumer.poll(10, 60)) == [b"first"]
    kit.broker.delete_topic("t")
    assert values(consumer.poll(10, 1)) == []
    assert listener.heard == [("assigned", [0]), ("lost", [0])]


@pytest.mark.parametrize(("start", "expected"), [(BEGINNING, [b"0", b"1", b"2"]), (END, []), (1, [b"1", b"2"])])
def test_a_partition_starts_where_the_listener_says(start: int, expected: list[bytes]) -> None:
    kit = Kit()
    kit.write(b"0", b"1", b"2")
    consumer, listener = kit.consumer()
    listener.start = start
    assert values(consumer.poll(10, 0)) == expected


def test_a_paused_partition_delivers_nothing_until_it_is_resumed() -> None:
    kit = Kit(partitions=2)
    kit.write(b"a", b"b")
    consumer, _ = kit.consumer()
    consumer.poll(1, 0)
    consumer.pause([tp(1), tp(7), tp(0, "other")])
    kit.write(b"a1")
    assert values(consumer.poll(10, 0)) == [b"a1"]
    consumer.resume([tp(1), tp(7)])
    assert values(consumer.poll(10, 0)) == [b"b"]


def test_a_seek_moves_the_next_delivery() -> None:
    kit = Kit()
    kit.write(b"0", b"1", b"2")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    consumer.seek(tp(0), 1)
    assert values(consumer.poll(1, 0)) == [b"1"]
    consumer.seek(tp(0), BEGINNING)
    assert values(consumer.poll(1, 0)) == [b"0"]
    consumer.seek(tp(0), END)
    assert values(consumer.poll(10, 0)) == []
    with pytest.raises(BrokerError):
        consumer.seek(tp(1), 0)


def test_a_position_out_of_range_is_reported_once_and_delivers_nothing_until_a_seek() -> None:
    kit = Kit()
    kit.write(b"0", b"1", b"2")
    consumer, _ = kit.consumer()
    consumer.poll(1, 0)
    kit.broker.delete_records(tp(0), 2)
    assert consumer.poll(10, 60).out_of_range == [tp(0)]
    later = consumer.poll(10, 1)
    assert (later.batches, later.out_of_range) == ([], [])
    consumer.seek(tp(0), BEGINNING)
    assert values(consumer.poll(10, 0)) == [b"2"]


def test_a_start_above_the_end_is_out_of_range() -> None:
    kit = Kit()
    kit.write(b"0")
    consumer, listener = kit.consumer()
    listener.start = 5
    assert consumer.poll(10, 0).out_of_range == [tp(0)]


def test_a_commit_is_stored_with_its_metadata_and_answered_in_the_next_poll() -> None:
    kit = Kit()
    kit.write(b"0", b"1")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    answers: list[BrokerError | None] = []
    consumer.commit({tp(0): CommittedOffset(2, "done")}, answers.append)
    assert kit.admin.committed_offsets("g", "t", 1) == {0: CommittedOffset(2, "done")}
    assert answers == []
    consumer.poll(10, 0)
    assert answers == [None]
    assert consumer.committed([tp(0), tp(1)], 1) == {tp(0): CommittedOffset(2, "done"), tp(1): None}


def test_a_commit_is_answered_in_close_at_the_latest() -> None:
    kit = Kit()
    kit.write(b"0")
    consumer, listener = kit.consumer()
    consumer.poll(10, 0)
    answers: list[BrokerError | None] = []
    consumer.commit({tp(0): CommittedOffset(1)}, answers.append)
    listener.on_revoked = lambda: consumer.commit({tp(0): CommittedOffset(1, "last")}, answers.append)
    consumer.close()
    assert answers == [None, None]
    assert kit.broker.committed_offsets("g", "t") == {0: CommittedOffset(1, "last")}


def test_a_second_consumer_of_the_group_goes_on_at_the_committed_position() -> None:
    kit = Kit()
    kit.write(b"0", b"1")
    first, _ = kit.consumer()
    first.poll(10, 0)
    first.commit_now({tp(0): CommittedOffset(1)}, 1)
    first.close()
    second, _ = kit.consumer()
    assert values(second.poll(10, 0)) == [b"1"]


@pytest.mark.parametrize(("fits", "too_long"), [("x" * 4096, "x" * 4097), ("😀" * 2048, "😀" * 2048 + "x")])
def test_metadata_beyond_the_limit_fails_its_partition_and_the_others_are_stored(fits: str, too_long: str) -> None:
    kit = Kit(partitions=2)
    kit.write(b"a", b"b")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    with pytest.raises(BrokerError) as raised:
        consumer.commit_now({tp(0): CommittedOffset(1, too_long), tp(1): CommittedOffset(1, fits)}, 1)
    assert raised.value.fault is Fault.METADATA
    assert kit.broker.committed_offsets("g", "t") == {1: CommittedOffset(1, fits)}


def test_a_commit_for_a_partition_that_does_not_exist_fails_alone() -> None:
    kit = Kit()
    kit.write(b"0")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    with pytest.raises(BrokerError) as raised:
        consumer.commit_now({tp(9): CommittedOffset(1), tp(0): CommittedOffset(1)}, 1)
    assert raised.value.fault is Fault.UNKNOWN_TOPIC
    assert kit.broker.committed_offsets("g", "t") == {0: CommittedOffset(1)}


def test_a_closed_consumer_can_do_nothing_more() -> None:
    kit = Kit()
    consumer, listener = kit.consumer()
    kit.write(b"0")
    consumer.poll(1, 0)
    consumer.close()
    consumer.close()
    assert listener.heard == [("assigned", [0]), ("revoked", [0])]
    with pytest.raises(BrokerError, match="closed"):
        consumer.poll(1, 0)
    answers: list[BrokerError | None] = []
    consumer.commit({tp(0): CommittedOffset(1)}, answers.append)
    assert [error and error.fault for error in answers] == [Fault.FATAL]

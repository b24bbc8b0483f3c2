"""What is written: where it lands, what it carries, what is refused."""

from __future__ import annotations

import pytest

from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, NewTopic, ProducerRecord, Watermarks
from flux.core.producing.partitioner import partition_for_key
from unit.support.memory_support import START, Kit, tp, values


def test_a_write_is_acknowledged_inside_the_call_with_where_it_landed() -> None:
    kit = Kit()
    [(error, first), (_, second)] = kit.write(b"a", b"b")
    assert error is None
    assert (first.topic(), first.partition(), first.offset(), first.value()) == ("t", 0, 0, b"a")
    assert second.offset() == 1


def test_a_key_is_placed_as_kafka_places_it() -> None:
    kit = Kit(partitions=7)
    for key in (b"a", b"b", b"foobar"):
        [(_, record)] = kit.write(ProducerRecord(b"v", key=key))
        assert record.partition() == partition_for_key(key, 7)


def test_a_key_places_nothing_when_the_partition_is_named() -> None:
    kit = Kit(partitions=7)
    assert {kit.write(ProducerRecord(b"v", key=b"k", partition=p))[0][1].partition() for p in range(7)} == set(range(7))


def test_records_without_a_key_take_turns_over_the_partitions() -> None:
    kit = Kit(partitions=3)
    assert [record.partition() for _, record in kit.write(b"a", b"b", b"c", b"d")] == [0, 1, 2, 0]


def test_headers_keep_their_order_their_repeats_and_their_nulls() -> None:
    kit = Kit()
    headers = [("b", b"1"), ("a", b""), ("b", None)]
    kit.write(ProducerRecord(b"v", headers=headers))
    assert kit.broker.records("t")[0].headers() == headers


def test_a_header_that_is_not_utf_8_can_be_stored_and_raises_when_read() -> None:
    kit = Kit()
    [(error, _)] = kit.write(ProducerRecord(b"v", headers=[("\udcff", b"")]))
    assert error is None
    with pytest.raises(UnicodeEncodeError):
        kit.broker.records("t")[0].headers()


def test_a_tombstone_is_not_an_empty_value() -> None:
    kit = Kit()
    kit.write(ProducerRecord(None, key=b"k"), ProducerRecord(b"", key=b"k"))
    assert [record.value() for record in kit.broker.records("t")] == [None, b""]


def test_a_timestamp_is_the_writers_or_now() -> None:
    kit = Kit()
    kit.write(ProducerRecord(b"v", timestamp=12), ProducerRecord(b"v"))
    assert [record.timestamp() for record in kit.broker.records("t")] == [(1, 12), (1, int(START * 1000))]


def test_a_topic_with_log_append_time_stamps_by_its_own_clock() -> None:
    kit = Kit()
    kit.broker.create_topic("t", config={"message.timestamp.type": "LogAppendTime"})
    kit.write(ProducerRecord(b"v", timestamp=12))
    assert kit.broker.records("t")[0].timestamp() == (2, int(START * 1000))


def test_one_record_that_is_too_large_is_refused_and_the_others_are_written() -> None:
    kit = Kit()
    kit.broker.create_topic("t", config={"max.message.bytes": "200"})
    fits, large = ProducerRecord(b"x" * 100), ProducerRecord(b"x" * 100, key=b"k" * 20, headers=[("h" * 10, b"v" * 10)])
    ends = kit.write(fits, large, fits)
    assert [error and error.fault for error, _ in ends] == [None, Fault.TOO_LARGE, None]
    assert ends[1][1].value() == large.value
    assert [record.offset() for record in kit.broker.records("t")] == [0, 1]


def test_kafkas_default_limit_leaves_room_for_the_overhead() -> None:
    kit = Kit()
    ends = kit.write(b"x" * 1_048_000, b"x" * 1_048_588)
    assert [error and error.fault for error, _ in ends] == [None, Fault.TOO_LARGE]


def test_a_compacted_topic_refuses_a_record_without_a_key() -> None:
    kit = Kit()
    kit.broker.create_topic("t", config={"cleanup.policy": "compact,delete"})
    ends = kit.write(b"v", ProducerRecord(b"v", key=b"k"))
    assert [error and error.fault for error, _ in ends] == [Fault.OTHER, None]


def test_a_partition_that_the_topic_does_not_have_is_unknown() -> None:
    kit = Kit(partitions=2)
    assert [error and error.fault for error, _ in kit.write(ProducerRecord(b"v", partition=2))] == [Fault.UNKNOWN_TOPIC]


def test_a_write_creates_the_topic_with_the_default_partitions() -> None:
    kit = Kit(partitions=3)
    assert kit.producer.partitions("new", 1) == 3


def test_without_auto_create_a_write_to_an_unknown_topic_fails() -> None:
    kit = Kit(auto_create=False)
    assert [error and error.fault for error, _ in kit.write(b"v")] == [Fault.UNKNOWN_TOPIC]
    with pytest.raises(BrokerError, match="no topic t"):
        kit.producer.partitions("t", 1)
    assert kit.admin.topic_names(1) == set()


def test_deleted_records_raise_the_low_watermark_and_keep_the_offsets() -> None:
    kit = Kit()
    kit.write(b"0", b"1", b"2")
    kit.broker.delete_records(tp(0), 2)
    assert kit.admin.watermarks("t", 1) == {0: Watermarks(2, 3)}
    assert [record.offset() for record in kit.broker.records("t")] == [2]
    with pytest.raises(BrokerError):
        kit.broker.delete_records(tp(0), 4)


def test_a_gap_in_the_offsets_is_read_over() -> None:
    kit = Kit()
    kit.write(b"0")
    kit.broker.skip_offsets(tp(0), 3)
    kit.write(b"4")
    consumer, _ = kit.consumer()
    assert values(consumer.poll(1, 0)) == [b"0"]
    [batch] = consumer.poll(10, 0).batches
    assert [record.offset() for record in batch.records] == [4]


def test_the_admin_sees_topics_and_their_configuration() -> None:
    kit = Kit()
    kit.admin.create_topics([NewTopic("a", 4, 3, {"retention.ms": "-1"})], 1)
    kit.admin.create_topics([NewTopic("a", 1, 1)], 1)
    found = kit.admin.topics(["a", "b"], 1)
    assert found["a"] is not None
    assert (found["a"].partitions, found["a"].replication_factor) == (4, 3)
    assert found["b"] is None
    assert kit.admin.topic_names(1) == {"a"}
    config = kit.admin.topic_config("a", 1)
    assert (config["retention.ms"], config["max.message.bytes"]) == ("-1", "1048588")
    with pytest.raises(BrokerError):
        kit.admin.create_topics([NewTopic("no spaces", 1, 1)], 1)


def test_a_grown_topic_keeps_what_it_has() -> None:
    kit = Kit()
    kit.write(b"0")
    kit.broker.grow_topic("t", 3)
    kit.write(ProducerRecord(b"1", partition=2))
    assert kit.admin.watermarks("t", 1) == {0: Watermarks(0, 1), 1: Watermarks(0, 0), 2: Watermarks(0, 1)}


def test_a_deleted_topic_takes_its_records_and_positions_along() -> None:
    kit = Kit()
    kit.write(b"0")
    consumer, listener = kit.consumer()
    consumer.poll(1, 0)
    consumer.commit_now({tp(0): CommittedOffset(1)}, 1)
    kit.broker.delete_topic("t")
    consumer.poll(1, 0)
    assert listener.heard == [("assigned", [0]), ("lost", [0])]
    kit.write(b"again")
    assert values(consumer.poll(1, 0)) == [b"again"]
    assert kit.admin.committed_offsets("g", "t", 1) == {}


def test_a_topic_deleted_and_made_again_between_two_polls_is_read_from_its_beginning() -> None:
    kit = Kit()
    kit.write(b"0", b"1")
    consumer, listener = kit.consumer()
    consumer.poll(10, 0)
    kit.broker.delete_topic("t")
    kit.write(b"new")
    assert values(consumer.poll(10, 0)) == [b"new"]
    assert listener.heard == [("assigned", [0]), ("lost", [0]), ("assigned", [0])]

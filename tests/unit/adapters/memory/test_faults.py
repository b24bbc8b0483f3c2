"""What a test can make go wrong, and how a client hears of it."""

from __future__ import annotations

import pytest

from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, NewTopic, ProducerRecord, ProducerSettings, Record
from unit.support.memory_support import START, Kit, tp, values

AWAY = BrokerError("not now", Fault.UNAVAILABLE)


def test_a_refused_record_is_reported_and_not_stored() -> None:
    kit = Kit()
    kit.broker.fail_writes(lambda topic, partition, record: AWAY if record.value == b"bad" else None)
    ends = kit.write(b"good", b"bad", b"good")
    assert [error for error, _ in ends] == [None, AWAY, None]
    assert [record.value() for record in kit.broker.records("t")] == [b"good", b"good"]
    kit.broker.fail_writes(None)
    assert kit.write(b"bad")[0][0] is None


def test_a_lost_acknowledgement_leaves_the_record_stored() -> None:
    kit = Kit()
    kit.broker.fail_writes(lambda topic, partition, record: AWAY, stored=True)
    assert [error for error, _ in kit.write(b"v")] == [AWAY]
    assert [record.value() for record in kit.broker.records("t")] == [b"v"]


@pytest.mark.parametrize("stored", [False, True])
def test_a_failed_commit_is_stored_only_when_just_its_answer_is_lost(stored: bool) -> None:
    kit = Kit(partitions=2)
    kit.write(b"a", b"b")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    kit.broker.fail_commits(lambda group, at, position: AWAY if at == tp(0) else None, stored=stored)
    with pytest.raises(BrokerError, match="not now"):
        consumer.commit_now({tp(0): CommittedOffset(1), tp(1): CommittedOffset(1)}, 1)
    assert sorted(kit.broker.committed_offsets("g", "t")) == ([0, 1] if stored else [1])


def test_a_failed_poll_raises_even_where_it_waits() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    consumer, _ = kit.consumer()
    denied = BrokerError("no", Fault.DENIED)
    kit.system.after(2, lambda: kit.broker.fail_polls(lambda group, topic: denied))
    with pytest.raises(BrokerError, match="no"):
        consumer.poll(1, 60)
    assert kit.system.now() - START == 2


def test_polls_are_empty_in_an_outage_and_go_on_where_they_were() -> None:
    kit = Kit()
    kit.write(b"0", b"1")
    consumer, listener = kit.consumer()
    consumer.poll(1, 0)
    kit.broker.available = False
    assert not consumer.poll(10, 1).batches
    kit.system.after(5, lambda: setattr(kit.broker, "available", True))
    assert values(consumer.poll(10, 60)) == [b"1"]
    assert kit.system.now() - START == 6
    assert listener.heard == [("assigned", [0])]


def test_nobody_joins_in_an_outage() -> None:
    kit = Kit()
    kit.write(b"0")
    kit.broker.available = False
    consumer, listener = kit.consumer()
    consumer.poll(1, 1)
    assert listener.heard == []
    kit.broker.available = True
    assert values(consumer.poll(1, 0)) == [b"0"]


def test_records_written_in_an_outage_are_acknowledged_in_order_when_it_ends() -> None:
    kit = Kit()
    kit.broker.available = False
    assert kit.write(b"0", b"1") == []
    kit.system.after(5, lambda: setattr(kit.broker, "available", True))
    kit.system.run_spawned()
    assert [(error, record.offset()) for error, record in kit.acknowledged] == [(None, 0), (None, 1)]
    assert kit.system.now() - START == 5


def test_a_record_does_not_overtake_one_that_is_held() -> None:
    kit = Kit()
    kit.broker.available = False
    kit.write(b"0")
    kit.broker.available = True
    assert kit.write(b"1") == []
    kit.system.run_spawned()
    assert [record.value() for record in kit.broker.records("t")] == [b"0", b"1"]
    assert [record.value() for _, record in kit.write(b"2")] == [b"2"]


def test_a_record_is_given_up_after_the_delivery_timeout() -> None:
    kit = Kit()
    kit.broker.available = False
    kit.write(b"0")
    kit.system.after(10, lambda: kit.write(b"1"))
    kit.system.after(35, lambda: setattr(kit.broker, "available", True))
    kit.system.run_spawned()
    assert [(error and error.fault, record.value()) for error, record in kit.acknowledged] == [
        (Fault.UNAVAILABLE, b"0"),
        (None, b"1"),
    ]
    assert [record.value() for record in kit.broker.records("t")] == [b"1"]


def test_a_full_queue_takes_fewer_records() -> None:
    kit = Kit()
    producer = kit.adapter.producer(ProducerSettings(max_queue_bytes=2_500))
    kit.broker.available = False
    ends: list[BrokerError | None] = []
    assert producer.write("t", [ProducerRecord(b"x" * 1000)] * 5, lambda error, record: ends.append(error)) == 2
    assert producer.write("t", [ProducerRecord(b"x" * 1000)], lambda error, record: ends.append(error)) == 0
    kit.broker.available = True
    kit.system.run_spawned()
    assert ends == [None, None]


def test_a_second_outage_is_served_like_the_first() -> None:
    kit = Kit()
    producer = kit.adapter.producer(ProducerSettings(max_queue_bytes=2_500))
    ends: list[BrokerError | None] = []
    for outage in (1, 2):
        kit.broker.available = False
        assert producer.write("t", [ProducerRecord(b"x" * 1000)] * 5, lambda error, record: ends.append(error)) == 2
        kit.broker.available = True
        kit.system.run_spawned()
        assert ends == [None, None] * outage


def test_flush_waits_for_what_is_held_and_says_what_is_left() -> None:
    kit = Kit()
    kit.broker.available = False
    kit.write(b"0", b"1")
    assert kit.producer.flush(3) == 2
    assert kit.system.now() - START == 3
    kit.broker.available = True
    kit.system.after(1, kit.system.run_spawned)
    assert kit.producer.flush(10) == 0
    assert kit.system.now() - START == 4


def test_a_closed_producer_reports_what_is_left_and_takes_no_more() -> None:
    kit = Kit()
    kit.broker.available = False
    kit.write(b"0")
    assert kit.producer.close(2) == 1
    assert [error and error.fault for error, _ in kit.acknowledged] == [Fault.UNAVAILABLE]
    with pytest.raises(BrokerError, match="closed"):
        kit.write(b"1")
    kit.system.run_spawned()
    assert len(kit.acknowledged) == 1
    assert kit.producer.close(2) == 0


def test_requests_wait_for_the_end_of_an_outage_and_then_fail() -> None:
    kit = Kit()
    kit.write(b"0")
    consumer, _ = kit.consumer()
    consumer.poll(1, 0)
    kit.broker.available = False
    answers: list[BrokerError | None] = []
    for request in (
        lambda: consumer.committed([tp(0)], 2),
        lambda: consumer.commit_now({tp(0): CommittedOffset(1)}, 2),
        lambda: kit.producer.partitions("t", 2),
        lambda: kit.admin.topic_names(2),
        lambda: kit.admin.create_topics([NewTopic("u", 1, 1)], 2),
        lambda: kit.admin.committed_offsets("g", "t", 2),
        lambda: kit.admin.watermarks("t", 2),
    ):
        before = kit.system.now()
        with pytest.raises(BrokerError) as raised:
            request()
        assert raised.value.retriable
        assert kit.system.now() - before == 2
    consumer.commit({tp(0): CommittedOffset(1)}, answers.append)
    consumer.poll(1, 0)
    assert [error and error.fault for error in answers] == [Fault.UNAVAILABLE]
    kit.system.after(1, lambda: setattr(kit.broker, "available", True))
    assert kit.admin.topic_names(2) == {"t"}


def test_a_callback_may_write() -> None:
    kit = Kit()
    landed: list[Record] = []

    def write_another(error: BrokerError | None, record: Record) -> None:
        kit.producer.write("t", [ProducerRecord(b"1")], lambda error, record: landed.append(record))

    kit.producer.write("t", [ProducerRecord(b"0")], write_another)
    assert [record.offset() for record in landed] == [1]


def test_an_error_in_an_acknowledgement_does_not_keep_others_from_theirs(caplog: pytest.LogCaptureFixture) -> None:
    kit = Kit()
    seen: list[bytes | None] = []

    def acknowledged(error: BrokerError | None, record: Record) -> None:
        seen.append(record.value())
        raise LookupError("a bug of the caller")

    assert kit.producer.write("t", [ProducerRecord(b"1"), ProducerRecord(b"2")], acknowledged) == 2
    assert seen == [b"1", b"2"]
    assert kit.producer.flush(1) == 0
    assert "a bug of the caller" in caplog.text

"""The confluent-kafka adapter against a real Kafka: what is written, read, committed and refused."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from brokers.base import USERS
from confluent_kafka import TopicPartition as Theirs
from confluent_kafka.admin import AdminClient

from flux.adapters.confluent import ConfluentAdapter, from_url
from flux.adapters.confluent.consumer import ConfluentConsumer
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import (
    BEGINNING,
    END,
    CommittedOffset,
    ConsumerSettings,
    NewTopic,
    PollResult,
    ProducerRecord,
    ProducerSettings,
    TopicInfo,
    TopicPartition,
    Watermarks,
)
from flux.testing.contract.bench import brings_nothing

SECONDS = 60.0


class Listener:
    """Starts each partition at `start` or where the group left it, and keeps what it was told."""

    def __init__(self, start: int | None = BEGINNING) -> None:
        self.start = start
        self.calls: list[tuple[str, list[TopicPartition]]] = []
        self.owned: set[TopicPartition] = set()
        self.on_revoked: Callable[[Sequence[TopicPartition]], None] = lambda partitions: None
        self.consumer: ConfluentConsumer | None = None

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.calls.append(("assigned", list(partitions)))
        self.owned.update(partitions)
        if self.start is not None:
            return dict.fromkeys(partitions, self.start)
        assert self.consumer is not None
        positions = self.consumer.committed(partitions, SECONDS)
        return {p: BEGINNING if position is None else position.offset for p, position in positions.items()}

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.calls.append(("revoked", list(partitions)))
        self.on_revoked(partitions)
        self.owned.difference_update(partitions)

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.calls.append(("lost", list(partitions)))
        self.owned.difference_update(partitions)


@pytest.fixture
def adapter(bootstrap: str) -> ConfluentAdapter:
    return ConfluentAdapter(bootstrap)


@pytest.fixture
def consume(bootstrap: str, group: str) -> Iterator[Callable[..., tuple[ConfluentConsumer, Listener]]]:
    made: list[ConfluentConsumer] = []

    def make(
        topic: str, start: int | None = BEGINNING, small_queue: bool = False, suffix: str = "", **options: Any
    ) -> tuple[ConfluentConsumer, Listener]:
        listener = Listener(start)
        adapter = ConfluentAdapter(bootstrap, {name.replace("_", "."): value for name, value in options.items()})
        consumer = adapter.consumer(ConsumerSettings(topic, group, small_queue, suffix), listener)
        listener.consumer = consumer
        made.append(consumer)
        return consumer, listener

    yield make
    for consumer in made:
        consumer.close()


@pytest.fixture
def write(bootstrap: str) -> Iterator[Callable[[str, Sequence[ProducerRecord]], list[Any]]]:
    producer = ConfluentAdapter(bootstrap).producer(ProducerSettings())

    def written(topic: str, records: Sequence[ProducerRecord]) -> list[Any]:
        results: list[tuple[BrokerError | None, Any]] = []
        assert producer.write(topic, records, lambda error, record: results.append((error, record))) == len(records)
        assert producer.flush(SECONDS) == 0
        assert len(results) == len(records)
        return results

    yield written
    producer.close(SECONDS)


def polled_until(
    consumer: ConfluentConsumer, enough: Callable[[PollResult], bool], *others: ConfluentConsumer
) -> PollResult:
    """Everything polled, by then and at once."""
    whole = PollResult()
    until = time.monotonic() + SECONDS
    while not enough(whole):
        assert time.monotonic() < until, f"not within {SECONDS} s; came: {whole}"
        polled = consumer.poll(500, 0.05)
        whole.batches += polled.batches
        whole.out_of_range += polled.out_of_range
        for other in others:
            assert other.poll(500, 0.05).batches == []
    return whole


def records_of(polled: PollResult) -> list[Any]:
    return [record for batch in polled.batches for record in batch.records]


def take(consumer: ConfluentConsumer, count: int) -> list[Any]:
    return records_of(polled_until(consumer, lambda whole: len(records_of(whole)) >= count))


def nothing_comes(consumer: ConfluentConsumer, polls: int = 5) -> None:
    for _ in range(polls):
        assert brings_nothing(consumer.poll(500, 0.1))


# -- records


def test_a_record_arrives_as_it_was_written(make_topic: Any, write: Any, consume: Any, read_all: Any) -> None:
    topic = make_topic(3)
    sent = [
        ProducerRecord(
            b"value",
            b"key",
            (("a", b"1"), ("a", b"2"), ("b", None), ("c", b""), ("dé", b"\xff\0")),
            2,
            1_600_000_000_000,
        ),
        ProducerRecord(b"no key", None, (), 2),
        ProducerRecord(b"", b"", (), 2),
        ProducerRecord(None, b"tombstone", (("h", b"x"),), 2),
    ]
    results = write(topic, sent)
    assert [(error, r.topic(), r.partition(), r.offset()) for error, r in results] == [
        (None, topic, 2, offset) for offset in range(4)
    ]
    consumer, _ = consume(topic)
    records = take(consumer, 4)
    for got in (records, read_all(topic)):
        assert [(r.topic(), r.partition(), r.offset()) for r in got] == [(topic, 2, offset) for offset in range(4)]
        assert [(r.value(), r.key(), tuple(r.headers() or ())) for r in got] == [
            (record.value, record.key, tuple(record.headers)) for record in sent
        ]
        assert got[0].timestamp() == (1, 1_600_000_000_000)
        assert abs(got[1].timestamp()[1] / 1000 - time.time()) < 60


def test_a_key_goes_where_kafkas_own_clients_put_it(make_topic: Any, write: Any) -> None:
    from flux.core.producing.partitioner import partition_for_key

    topic = make_topic(7)
    keys = [b"%d" % i for i in range(50)]
    results = write(topic, [ProducerRecord(b"v", key) for key in keys])
    assert {r.key(): r.partition() for _, r in results} == {key: partition_for_key(key, 7) for key in keys}


def test_records_of_many_partitions_come_in_batches_of_one(make_topic: Any, write: Any, consume: Any) -> None:
    topic = make_topic(4)
    write(topic, [ProducerRecord(b"%d" % i, None, (), i % 4) for i in range(4000)])
    consumer, _ = consume(topic)
    polled = polled_until(consumer, lambda whole: len(records_of(whole)) >= 4000)
    seen: dict[int, list[int]] = {}
    for batch in polled.batches:
        assert batch.records
        assert {r.partition() for r in batch.records} == {batch.partition.partition}
        assert batch.partition.topic == topic
        seen.setdefault(batch.partition.partition, []).extend(int(r.value()) for r in batch.records)
    assert seen == {number: list(range(number, 4000, 4)) for number in range(4)}


def test_no_poll_brings_more_than_was_asked_for(topic: str, write: Any, consume: Any) -> None:
    write(topic, [ProducerRecord(b"%d" % i) for i in range(100)])
    consumer, _ = consume(topic)
    values: list[bytes] = []
    while len(values) < 100:
        got = records_of(consumer.poll(7, 1.0))
        assert len(got) <= 7
        values += [r.value() for r in got]
    assert values == [b"%d" % i for i in range(100)]
    assert brings_nothing(consumer.poll(1, 0))


def test_a_record_is_handed_over_as_soon_as_it_is_there(topic: str, write: Any, consume: Any) -> None:
    consumer, listener = consume(topic, small_queue=True)
    polled_until(consumer, lambda _: bool(listener.owned))
    writer = threading.Timer(0.3, write, (topic, [ProducerRecord(b"x")]))
    writer.start()
    began = time.monotonic()
    polled = consumer.poll(500, 20.0)
    while not polled.batches:
        assert polled.reached, "an empty poll ended before its time"
        polled = consumer.poll(500, 20.0)
    assert [r.value() for r in records_of(polled)] == [b"x"]
    assert time.monotonic() - began < 5
    writer.join()


# -- positions


def test_a_position_and_its_metadata_are_read_back(topic: str, write: Any, consume: Any, group: str) -> None:
    partition = TopicPartition(topic, 0)
    write(topic, [ProducerRecord(b"x")] * 3)
    consumer, _ = consume(topic)
    take(consumer, 3)
    assert consumer.committed([partition], SECONDS) == {partition: None}
    for position in (CommittedOffset(2, "flux-1:äß7~"), CommittedOffset(3)):
        consumer.commit_now({partition: position}, SECONDS)
        assert consumer.committed([partition], SECONDS) == {partition: position}
    consumer.close()
    again, _ = consume(topic, start=None)
    write(topic, [ProducerRecord(b"later")])
    assert [r.offset() for r in take(again, 1)] == [3]


def test_a_commit_is_answered_inside_a_later_poll(topic: str, write: Any, consume: Any) -> None:
    partition = TopicPartition(topic, 0)
    write(topic, [ProducerRecord(b"x")] * 3)
    consumer, _ = consume(topic)
    take(consumer, 3)
    answers: list[tuple[str, BrokerError | None]] = []
    consumer.commit({partition: CommittedOffset(1, "a")}, lambda error: answers.append(("first", error)))
    consumer.commit({partition: CommittedOffset(2, "b")}, lambda error: answers.append(("second", error)))
    assert answers == []
    polled_until(consumer, lambda _: len(answers) == 2)
    assert answers == [("first", None), ("second", None)]
    assert consumer.committed([partition], SECONDS) == {partition: CommittedOffset(2, "b")}
    consumer.commit({partition: CommittedOffset(3, "c")}, lambda error: answers.append(("third", error)))
    consumer.close()
    assert answers[2:] == [("third", None)]


def test_metadata_that_is_too_long_is_named(topic: str, write: Any, consume: Any) -> None:
    partition = TopicPartition(topic, 0)
    write(topic, [ProducerRecord(b"x")])
    consumer, _ = consume(topic)
    take(consumer, 1)
    consumer.commit_now({partition: CommittedOffset(1, "x" * 4095)}, SECONDS)
    with pytest.raises(BrokerError) as caught:
        consumer.commit_now({partition: CommittedOffset(1, "x" * 4096)}, SECONDS)
    assert caught.value.fault is Fault.METADATA
    answers: list[BrokerError | None] = []
    consumer.commit({partition: CommittedOffset(1, "x" * 5000)}, answers.append)
    polled_until(consumer, lambda _: bool(answers))
    assert answers[0] is not None
    assert answers[0].fault is Fault.METADATA


def test_seek_delivers_from_there(topic: str, write: Any, consume: Any) -> None:
    partition = TopicPartition(topic, 0)
    write(topic, [ProducerRecord(b"%d" % i) for i in range(10)])
    consumer, _ = consume(topic)
    take(consumer, 10)
    consumer.seek(partition, 7)
    assert [r.offset() for r in take(consumer, 3)] == [7, 8, 9]
    consumer.seek(partition, BEGINNING)
    assert [r.offset() for r in take(consumer, 10)] == list(range(10))
    consumer.seek(partition, 0)
    consumer.seek(partition, END)
    nothing_comes(consumer)
    write(topic, [ProducerRecord(b"new")])
    assert [r.value() for r in take(consumer, 1)] == [b"new"]


def test_a_start_at_the_end_brings_only_what_comes_later(topic: str, write: Any, consume: Any) -> None:
    write(topic, [ProducerRecord(b"old")])
    consumer, listener = consume(topic, start=END)
    polled_until(consumer, lambda _: bool(listener.owned))
    nothing_comes(consumer)
    write(topic, [ProducerRecord(b"new")])
    assert [r.value() for r in take(consumer, 1)] == [b"new"]


def test_a_position_that_the_log_no_longer_holds_is_reported_and_can_be_left(
    topic: str, write: Any, consume: Any, kafka_admin: AdminClient
) -> None:
    partition = TopicPartition(topic, 0)
    write(topic, [ProducerRecord(b"%d" % i) for i in range(10)])
    kafka_admin.delete_records([Theirs(topic, 0, 6)])[Theirs(topic, 0, 6)].result(SECONDS)
    consumer, _ = consume(topic, start=2)
    polled = polled_until(consumer, lambda whole: bool(whole.out_of_range))
    assert polled == PollResult([], [partition])
    nothing_comes(consumer)
    consumer.seek(partition, BEGINNING)
    assert [r.offset() for r in take(consumer, 4)] == [6, 7, 8, 9]
    consumer.seek(partition, 99)
    assert polled_until(consumer, lambda whole: bool(whole.out_of_range)).out_of_range == [partition]
    consumer.pause([partition])
    consumer.seek(partition, 8)
    nothing_comes(consumer)
    consumer.resume([partition])
    assert [r.offset() for r in take(consumer, 2)] == [8, 9]


# -- pauses and rebalances


def test_a_paused_partition_delivers_nothing_and_then_goes_on(make_topic: Any, write: Any, consume: Any) -> None:
    topic = make_topic(2)
    write(topic, [ProducerRecord(b"%d" % i, None, (), i % 2) for i in range(20)])
    consumer, _ = consume(topic)
    take(consumer, 20)
    consumer.pause([TopicPartition(topic, 0), TopicPartition(topic, 77)])
    write(topic, [ProducerRecord(b"%d" % i, None, (), i % 2) for i in range(20, 40)])
    assert [int(r.value()) for r in take(consumer, 10)] == list(range(21, 40, 2))
    nothing_comes(consumer)
    consumer.resume([TopicPartition(topic, 0), TopicPartition(topic, 77)])
    assert [int(r.value()) for r in take(consumer, 10)] == list(range(20, 40, 2))


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members_share_a_topic_and_take_over_where_the_group_is(
    make_topic: Any, write: Any, consume: Any, protocol: str
) -> None:
    topic = make_topic(4)
    write(topic, [ProducerRecord(b"%d" % i, None, (), i % 4) for i in range(40)])
    quick = {"heartbeat_interval_ms": 200} if protocol == "classic" else {}
    first, one = consume(topic, start=None, group_protocol=protocol, **quick)
    assert len(take(first, 40)) == 40
    everything = {TopicPartition(topic, number) for number in range(4)}
    assert one.owned == everything

    def commits(partitions: Sequence[TopicPartition]) -> None:
        first.commit_now({p: CommittedOffset(10, "done") for p in partitions}, SECONDS)

    one.on_revoked = commits
    first.pause(everything)
    second, two = consume(topic, start=None, group_protocol=protocol, **quick)
    polled_until(second, lambda _: len(two.owned) == 2 and len(one.owned) == 2, first)
    assert one.owned | two.owned == everything
    assert not one.owned & two.owned
    moved = set(two.owned)
    # Cooperative: what stays is not touched.
    assert {p for call, partitions in one.calls if call == "revoked" for p in partitions} == moved
    assert ("lost", []) not in one.calls

    second.close()
    assert two.owned == set()
    assert two.calls[-1][0] == "revoked"
    polled_until(first, lambda _: one.owned == everything)
    # They were paused when they went, and are not when they come back.
    write(topic, [ProducerRecord(b"new", None, (), p.partition) for p in moved])
    again = take(first, 2)
    assert {(r.partition(), r.offset(), r.value()) for r in again} == {(p.partition, 10, b"new") for p in moved}
    nothing_comes(first)


def test_a_commit_inside_close_is_the_last_word(topic: str, write: Any, consume: Any, adapter: Any, group: str) -> None:
    write(topic, [ProducerRecord(b"x")] * 5)
    consumer, listener = consume(topic)
    take(consumer, 5)
    listener.on_revoked = lambda partitions: consumer.commit_now(
        {p: CommittedOffset(4, "m") for p in partitions}, SECONDS
    )
    began = time.monotonic()
    consumer.close()
    assert time.monotonic() - began < 10
    assert adapter.admin().committed_offsets(group, topic, SECONDS) == {0: CommittedOffset(4, "m")}


def test_an_error_of_the_listener_leaves_poll_and_passes_no_record_over(topic: str, write: Any, consume: Any) -> None:
    write(topic, [ProducerRecord(b"x")] * 5)
    consumer, listener = consume(topic)

    def broken(partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        raise LookupError("a bug")

    listener.assigned = broken
    with pytest.raises(LookupError, match="a bug"):
        polled_until(consumer, lambda _: False)
    with pytest.raises(LookupError, match="a bug"):
        consumer.poll(500, 0.1)


def test_a_static_member_that_is_replaced_hears_of_it(topic: str, write: Any, consume: Any) -> None:
    write(topic, [ProducerRecord(b"x")])
    first, _ = consume(topic, suffix="-0", group_instance_id="worker")
    take(first, 1)
    second, other = consume(topic, suffix="-0", group_instance_id="worker")
    fenced: list[BrokerError] = []

    def watch(_: PollResult) -> bool:
        try:
            first.poll(500, 0.05)
        except BrokerError as error:
            fenced.append(error)
        return bool(fenced and other.owned)

    polled_until(second, watch)
    assert {error.fault for error in fenced} == {Fault.FENCED}


def test_a_member_has_its_tasks_name_host_and_process(
    adapter: ConfluentAdapter, bootstrap: str, topic: str, group: str
) -> None:
    listener = Listener(BEGINNING)
    consumer = listener.consumer = adapter.consumer(ConsumerSettings(topic, group, task="Billing"), listener)
    admin = adapter.admin()
    try:
        polled_until(consumer, lambda _: bool(listener.owned))
        (found,) = admin.members(group, SECONDS)
    finally:
        consumer.close()
        admin.close()
    assert found.client_id == f"flux-Billing-{socket.gethostname()}-{os.getpid()}"


def test_static_members_with_a_suffix_each_live_together(make_topic: Any, consume: Any) -> None:
    topic = make_topic(2)
    first, one = consume(topic, suffix="-0", group_instance_id="worker")
    second, two = consume(topic, suffix="-1", group_instance_id="worker")
    polled_until(first, lambda _: len(one.owned) == len(two.owned) == 1, second)


# -- what is refused


def test_a_topic_that_does_not_exist_is_named(consume: Any, unique: Callable[[], str]) -> None:
    missing = unique()
    consumer, _ = consume(missing)
    with pytest.raises(BrokerError, match=missing) as caught:
        polled_until(consumer, lambda _: False)
    assert caught.value.fault is Fault.UNKNOWN_TOPIC


def test_a_topic_that_is_deleted_meanwhile_ends_nothing(
    topic: str, write: Any, consume: Any, kafka_admin: AdminClient
) -> None:
    write(topic, [ProducerRecord(b"x")])
    consumer, _ = consume(topic, topic_metadata_refresh_interval_ms=200)
    take(consumer, 1)
    kafka_admin.delete_topics([topic])[topic].result(SECONDS)
    nothing_comes(consumer, polls=20)


def test_a_cluster_that_is_away_raises_nothing(consume: Any, group: str, topic: str) -> None:
    consumer = ConfluentAdapter("127.0.0.1:1").consumer(ConsumerSettings(topic, group), Listener())
    nothing_comes(consumer, polls=10)
    with pytest.raises(BrokerError) as caught:
        consumer.committed([TopicPartition(topic, 0)], 0.5)
    assert caught.value.fault is Fault.UNAVAILABLE
    assert caught.value.retriable
    began = time.monotonic()
    with pytest.raises(BrokerError):
        consumer.commit_now({TopicPartition(topic, 0): CommittedOffset(1)}, 0.5)
    consumer.close()
    assert time.monotonic() - began < 10


def test_records_too_large_for_the_topic_are_reported_one_by_one(make_topic: Any, write: Any, read_all: Any) -> None:
    topic = make_topic(max_message_bytes=10_000)
    for records in (
        [ProducerRecord(b"small")],
        [ProducerRecord(b"x" * 20_000)],
        [ProducerRecord(b"y" * 150_000_000)],
        [ProducerRecord(b"last")],
    ):
        [(error, record)] = write(topic, records)
        if len(records[0].value or b"") < 10_000:
            assert error is None
        else:
            assert error is not None
            assert error.fault is Fault.TOO_LARGE
            assert record.topic() == topic
            assert record.value() == records[0].value
    assert [r.value() for r in read_all(topic)] == [b"small", b"last"]


def test_no_batch_grows_beyond_its_limit(adapter: ConfluentAdapter, make_topic: Any, read_all: Any) -> None:
    topic = make_topic(max_message_bytes=10_000)
    producer = adapter.producer(ProducerSettings(linger=0.2, max_batch_bytes=10_000))
    errors: list[BrokerError | None] = []
    assert producer.write(topic, [ProducerRecord(b"x" * 1000)] * 100, lambda error, _: errors.append(error)) == 100
    assert producer.close(SECONDS) == 0
    assert errors == [None] * 100
    assert len(read_all(topic)) == 100


def test_a_record_that_the_client_cannot_take_is_reported_and_the_rest_goes_on(
    topic: str, write: Any, read_all: Any
) -> None:
    results = write(
        topic,
        [
            ProducerRecord(b"1"),
            ProducerRecord(b"2", None, (("\ud800", b"x"),)),
            ProducerRecord(b"3", None, (("a\0b", b"x"),)),
            ProducerRecord(b"4", None, (), 99),
            ProducerRecord(b"5"),
        ],
    )
    failed = {record.value(): error.fault for error, record in results if error}
    assert failed == {b"2": Fault.OTHER, b"3": Fault.OTHER, b"4": Fault.UNKNOWN_TOPIC}
    assert [r.value() for r in read_all(topic)] == [b"1", b"5"]


def test_a_full_queue_takes_a_part_and_keeps_the_order(adapter: ConfluentAdapter, topic: str, read_all: Any) -> None:
    producer = adapter.producer(ProducerSettings(max_queue_bytes=100_000, linger=0.0))
    records = [ProducerRecord(b"%06d" % i + b"x" * 1000) for i in range(1000)]
    errors: list[BrokerError | None] = []
    counts: list[int] = []
    rest = records
    until = time.monotonic() + SECONDS
    while rest:
        assert time.monotonic() < until
        counts.append(producer.write(topic, rest, lambda error, _: errors.append(error)))
        rest = rest[counts[-1] :]
        if rest:
            producer.flush(0.01)
    assert producer.close(SECONDS) == 0
    assert counts[0] < 1000
    assert errors == [None] * 1000
    assert [r.value() for r in read_all(topic)] == [record.value for record in records]


def test_a_record_larger_than_the_queue_is_not_waited_for(adapter: ConfluentAdapter, topic: str) -> None:
    producer = adapter.producer(ProducerSettings(max_queue_bytes=10_000))
    errors: list[BrokerError | None] = []
    assert (
        producer.write(
            topic, [ProducerRecord(b"x" * 20_000), ProducerRecord(b"y")], lambda error, _: errors.append(error)
        )
        == 2
    )
    assert producer.close(SECONDS) == 0
    assert [error and error.fault for error in errors] == [Fault.TOO_LARGE, None]


def test_an_error_in_an_acknowledgement_ends_nothing(
    adapter: ConfluentAdapter, topic: str, read_all: Any, caplog: pytest.LogCaptureFixture
) -> None:
    producer = adapter.producer(ProducerSettings())
    seen: list[bytes] = []

    def acknowledged(error: BrokerError | None, record: Any) -> None:
        seen.append(record.value())
        raise LookupError("a bug of the caller")

    for value in (b"1", b"2", b"3"):
        assert producer.write(topic, [ProducerRecord(value)], acknowledged) == 1
    assert producer.close(SECONDS) == 0
    assert seen == [b"1", b"2", b"3"]
    assert "a bug of the caller" in caplog.text
    assert len(read_all(topic)) == 3


def test_a_closed_producer_reports_what_it_could_not_send(topic: str) -> None:
    producer = ConfluentAdapter("127.0.0.1:1").producer(ProducerSettings())
    errors: list[BrokerError | None] = []
    assert producer.write(topic, [ProducerRecord(b"x")] * 3, lambda error, _: errors.append(error)) == 3
    assert producer.flush(0.1) == 3
    assert producer.close(0.1) == 3
    assert [error and error.fault for error in errors] == [Fault.UNAVAILABLE] * 3
    with pytest.raises(BrokerError, match="closed"):
        producer.write(topic, [ProducerRecord(b"x")], lambda error, _: None)
    assert producer.close(0.1) == 0


def test_partitions_are_counted(adapter: ConfluentAdapter, make_topic: Any, unique: Callable[[], str]) -> None:
    producer = adapter.producer(ProducerSettings())
    assert producer.partitions(make_topic(5), SECONDS) == 5
    missing = unique()
    with pytest.raises(BrokerError, match=missing) as caught:
        producer.partitions(missing, SECONDS)
    assert caught.value.fault is Fault.UNKNOWN_TOPIC
    producer.close(1)


# -- the admin


def test_topics_are_made_described_and_never_made_by_asking(
    adapter: ConfluentAdapter, make_topic: Any, unique: Callable[[], str], kafka_admin: AdminClient
) -> None:
    admin = adapter.admin()
    there, new, missing = make_topic(2), unique(), unique()
    config = {"cleanup.policy": "compact", "retention.ms": "86400000"}
    made = [NewTopic(there, 9, 1), NewTopic(new, 3, 1, config)]
    admin.create_topics(made, SECONDS)
    admin.create_topics(made, SECONDS)
    assert admin.topics([there, new, missing], SECONDS) == {there: TopicInfo(2, 1), new: TopicInfo(3, 1), missing: None}
    names = admin.topic_names(SECONDS)
    assert {there, new} <= names
    assert missing not in names
    assert config.items() <= admin.topic_config(new, SECONDS).items()
    with pytest.raises(BrokerError, match=missing) as caught:
        admin.topic_config(missing, SECONDS)
    assert caught.value.fault is Fault.UNKNOWN_TOPIC
    with pytest.raises(BrokerError, match="bad name"):
        admin.create_topics([NewTopic("bad name", 1, 1)], SECONDS)
    assert admin.topics([], SECONDS) == {}
    kafka_admin.delete_topics([new])[new].result(SECONDS)
    admin.close()


def test_positions_and_watermarks_are_read(
    adapter: ConfluentAdapter,
    make_topic: Any,
    write: Any,
    consume: Any,
    group: str,
    kafka_admin: AdminClient,
    unique: Any,
) -> None:
    admin = adapter.admin()
    topic = make_topic(3)
    write(topic, [ProducerRecord(b"%d" % i, None, (), i % 2) for i in range(20)])
    kafka_admin.delete_records([Theirs(topic, 1, 4)])[Theirs(topic, 1, 4)].result(SECONDS)
    assert admin.watermarks(topic, SECONDS) == {0: Watermarks(0, 10), 1: Watermarks(4, 10), 2: Watermarks(0, 0)}
    with pytest.raises(BrokerError) as caught:
        admin.watermarks(unique(), SECONDS)
    assert caught.value.fault is Fault.UNKNOWN_TOPIC
    assert admin.committed_offsets(group, topic, SECONDS) == {}
    consumer, _ = consume(topic, start=5)
    take(consumer, 10)
    consumer.commit_now(
        {TopicPartition(topic, 0): CommittedOffset(9, "ä"), TopicPartition(topic, 1): CommittedOffset(8)}, SECONDS
    )
    assert admin.committed_offsets(group, topic, SECONDS) == {0: CommittedOffset(9, "ä"), 1: CommittedOffset(8)}
    assert admin.committed_offsets(group, make_topic(), SECONDS) == {}


def test_what_the_admin_reads_every_few_seconds_leaves_nothing_behind(
    adapter: ConfluentAdapter, topic: str, group: str
) -> None:
    admin = adapter.admin()

    def kept() -> int:
        gc.collect()
        return sum(type(each).__module__ == "cimpl" for each in gc.get_objects())

    def read() -> None:
        admin.topics([topic], SECONDS)
        admin.watermarks(topic, SECONDS)
        admin.committed_offsets(group, topic, SECONDS)
        admin.members(group, SECONDS)

    read()
    before = kept()
    for _ in range(5):
        read()
    assert kept() == before
    admin.close()


def test_admin_says_when_the_cluster_is_away(topic: str) -> None:
    admin = ConfluentAdapter("127.0.0.1:1").admin()
    for ask in (
        lambda: admin.topic_names(0.5),
        lambda: admin.topics([topic], 0.5),
        lambda: admin.watermarks(topic, 0.5),
    ):
        with pytest.raises(BrokerError) as caught:
            ask()
        assert caught.value.fault is Fault.UNAVAILABLE


# -- logins and permissions


def login(bootstrap: str, user: str, password: str) -> ConfluentAdapter:
    from urllib.parse import quote

    return from_url(
        f"confluent://{quote(user, safe='')}:{quote(password, safe='')}@{bootstrap}"
        "?security.protocol=SASL_PLAINTEXT&sasl.mechanism=PLAIN"
    )


def test_a_login_works(secured: str, topic: str, group: str, read_all: Any) -> None:
    boss = login(secured, "boss", USERS["boss"])
    producer = boss.producer(ProducerSettings())
    assert producer.write(topic, [ProducerRecord(b"x")], lambda error, _: None) == 1
    assert producer.close(SECONDS) == 0
    consumer = boss.consumer(ConsumerSettings(topic, group), Listener())
    assert [r.value() for r in take(consumer, 1)] == [b"x"]
    consumer.close()
    assert topic in boss.admin().topic_names(SECONDS)


def test_a_refused_login_is_told_at_once_and_the_password_never(
    secured: str, topic: str, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    stranger = login(secured, "boss", "wr0ng-pass")
    began = time.monotonic()
    errors: list[BrokerError] = []
    consumer = stranger.consumer(ConsumerSettings(topic, group), Listener())
    with pytest.raises(BrokerError) as caught:
        polled_until(consumer, lambda _: False)
    errors.append(caught.value)
    consumer.close()
    admin = stranger.admin()
    for ask in (lambda: admin.topics([topic], 20), lambda: stranger.admin().topic_names(20)):
        with pytest.raises(BrokerError) as caught:
            ask()
        errors.append(caught.value)
    producer = stranger.producer(ProducerSettings())
    reported: list[BrokerError | None] = []
    producer.write(topic, [ProducerRecord(b"x")], lambda error, _: reported.append(error))
    while not reported:
        assert time.monotonic() - began < SECONDS
        time.sleep(0.01)
    producer.close(0)
    assert reported[0] is not None
    errors.append(reported[0])
    assert [error.fault for error in errors] == [Fault.LOGIN] * 4
    assert time.monotonic() - began < 20
    assert "wr0ng-pass" not in caplog.text + repr(stranger) + stranger.cluster + "".join(map(str, errors))


def test_a_missing_permission_is_named(secured: str, topic: str, group: str, unique: Any) -> None:
    guest = login(secured, "guest", USERS["guest"])
    consumer = guest.consumer(ConsumerSettings(topic, group), Listener())
    with pytest.raises(BrokerError, match=f"needs READ on (topic {topic}|group {group})") as caught:
        polled_until(consumer, lambda _: False)
    assert caught.value.fault is Fault.DENIED
    consumer.close()
    admin = guest.admin()
    new = unique()
    for ask, needed in (
        (lambda: admin.topics([topic], SECONDS), f"needs DESCRIBE on topic {topic}"),
        (lambda: admin.topic_config(topic, SECONDS), f"needs DESCRIBE_CONFIGS on topic {topic}"),
        (lambda: admin.create_topics([NewTopic(new, 1, 1)], SECONDS), f"needs CREATE on topic {new}"),
        (lambda: admin.committed_offsets(group, topic, SECONDS), f"needs DESCRIBE on topic {topic}"),
    ):
        with pytest.raises(BrokerError, match=needed) as caught:
            ask()
        assert caught.value.fault is Fault.DENIED
    for acks in ("all", "1"):
        error = refusal(guest, ProducerSettings(acks=acks), topic)
        assert error is not None
        assert error.fault is Fault.DENIED
        assert "WRITE on" in str(error)


def refusal(adapter: ConfluentAdapter, settings: ProducerSettings, topic: str) -> BrokerError | None:
    """How the one record that is written ends."""
    reported: list[BrokerError | None] = []
    producer = adapter.producer(settings)
    producer.write(topic, [ProducerRecord(b"x")], lambda error, _: reported.append(error))
    producer.flush(10)
    producer.close(0)
    [error] = reported
    return error


def test_what_librdkafka_refuses_is_the_users_to_mend(bootstrap: str, topic: str, group: str) -> None:
    for options, said in (
        ({"no.such.thing": 1}, "no.such.thing"),
        ({"fetch.wait.max.ms": "soon"}, "fetch.wait.max.ms"),
        ({"oauth_cb": 3}, "oauth_cb"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            ConfluentAdapter(bootstrap, options).consumer(ConsumerSettings(topic, group), Listener())
    with pytest.raises(ConfigurationError) as caught:
        ConfluentAdapter(bootstrap, {"security.protocol": "ssl", "ssl.key.pem": "s3cret"}).admin()
    assert "s3cret" not in str(caught.value)

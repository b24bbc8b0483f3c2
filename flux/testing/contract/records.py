"""Records are read as they were written, in order, once."""

from __future__ import annotations

import threading
import time

from flux.core.ports import ProducerRecord
from flux.testing.contract.bench import Bench, Contract, brings_nothing, records_of, values

CONTRACT = Contract()


@CONTRACT
def a_record_arrives_as_it_was_written(bench: Bench) -> None:
    topic = bench.topic(3)
    headers = (("a", b"1"), ("a", b"2"), ("b", None), ("c", b""), ("dé", b"\xff\0"))
    sent = [
        ProducerRecord(b"value", b"key", headers, 2, 1_600_000_000_000),
        ProducerRecord(b"no key", None, (), 2),
        ProducerRecord(b"", b"", (), 2),
        ProducerRecord(None, b"tombstone", (("h", b"x"),), 2),
    ]
    began = time.time()
    acknowledged = bench.written(topic, sent)
    records = bench.take(bench.member(topic), 4)
    for got in (acknowledged, records):
        assert [(r.topic(), r.partition(), r.offset()) for r in got] == [(topic, 2, offset) for offset in range(4)]
        assert [(r.key(), r.value()) for r in got] == [(one.key, one.value) for one in sent]
    assert [tuple(r.headers() or ()) for r in records] == [tuple(one.headers) for one in sent]
    assert records[0].timestamp() == (1, 1_600_000_000_000), records[0].timestamp()
    assert records[1].timestamp()[0] == 1
    assert abs(records[1].timestamp()[1] / 1000 - began) < 60


@CONTRACT
def a_broker_that_stamps_records_is_believed(bench: Bench) -> None:
    topic = bench.topic(message_timestamp_type="LogAppendTime")
    bench.written(topic, [ProducerRecord(b"x", None, (), None, 1_600_000_000_000)])
    [record] = bench.take(bench.member(topic), 1)
    kind, stamp = record.timestamp()
    assert kind == 2, kind
    assert abs(stamp / 1000 - time.time()) < 60


@CONTRACT
def each_partition_keeps_its_order_and_each_batch_is_of_one(bench: Bench) -> None:
    topic = bench.topic(4)
    bench.written(topic, [ProducerRecord(b"%d" % i, None, (), i % 4) for i in range(4000)])
    whole = bench.polled([bench.member(topic)], lambda whole: len(records_of(whole)) >= 4000)
    seen: dict[int, list[int]] = {}
    for batch in whole.batches:
        assert {(r.topic(), r.partition()) for r in batch.records} == {tuple(batch.partition)}
        seen.setdefault(batch.partition.partition, []).extend(int(r.value() or b"") for r in batch.records)
    assert seen == {number: list(range(number, 4000, 4)) for number in range(4)}


@CONTRACT
def no_poll_brings_more_than_was_asked_for(bench: Bench) -> None:
    topic = bench.topic(2)
    bench.written(topic, [ProducerRecord(b"%d" % i, None, (), i % 2) for i in range(100)])
    member = bench.member(topic)
    got: list[bytes | None] = []

    def poll() -> None:
        polled = records_of(member.poll(7, 1.0))
        assert len(polled) <= 7, len(polled)
        got.extend(values(polled))

    bench.until(lambda: len(got) >= 100, poll)
    assert sorted(int(value or b"") for value in got) == list(range(100))
    assert brings_nothing(member.poll(1, 0))


@CONTRACT
def a_record_is_delivered_as_soon_as_it_is_there(bench: Bench) -> None:
    topic = bench.topic()
    bench.written(topic, [ProducerRecord(b"first")])
    member = bench.member(topic)
    bench.take(member, 1)
    writer = threading.Timer(0.3, bench.written, (topic, [ProducerRecord(b"second")]))
    writer.start()
    began = time.monotonic()
    polled = member.poll(500, 20.0)
    while not polled.batches:
        assert polled.reached, "an empty poll ended before its time"
        polled = member.poll(500, 20.0)
    assert values(records_of(polled)) == [b"second"]
    assert time.monotonic() - began < 5
    writer.join()


@CONTRACT
def an_empty_poll_ends_in_time(bench: Bench) -> None:
    member = bench.member(bench.topic())
    bench.join(member)
    for timeout in (0.0, 0.3):
        took = -1.0
        while took < timeout - 0.05:
            began = time.monotonic()
            polled = member.poll(10, timeout)
            took = time.monotonic() - began
            assert brings_nothing(polled)
            assert took < timeout + 2
            assert took >= timeout - 0.05 or polled.reached, "an empty poll ended before its time"


@CONTRACT
def compression_is_not_seen_by_readers(bench: Bench) -> None:
    topic = bench.topic()
    producer = bench.producer(compression="gzip")
    records = [ProducerRecord(b"same" * 100)] * 50
    assert producer.write(topic, records, lambda error, record: None) == 50
    assert producer.close(bench.seconds) == 0
    assert values(bench.take(bench.member(topic), 50)) == [record.value for record in records]

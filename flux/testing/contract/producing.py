"""Every record that a producer takes is answered once, and truly."""

from __future__ import annotations

import threading

from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerRecord, Record
from flux.testing.contract.bench import Bench, Contract, fault_of, values

CONTRACT = Contract()

_MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""Source: UtilsTest.testMurmur2 of Apache Kafka."""


@CONTRACT
def keys_land_where_the_java_client_puts_them(bench: Bench) -> None:
    topic = bench.topic(7)
    records = bench.written(topic, [ProducerRecord(b"v", key) for key in _MURMUR2])
    assert {r.key(): r.partition() for r in records} == {key: (h & 0x7FFFFFFF) % 7 for key, h in _MURMUR2.items()}


@CONTRACT
def records_without_a_key_are_spread(bench: Bench) -> None:
    topic = bench.topic(4)
    used: set[int] = set()
    bench.until(
        lambda: len(used) == 4,
        lambda: used.update(r.partition() for r in bench.written(topic, [ProducerRecord(b"x" * 5000)] * 20)),
    )


@CONTRACT
def acknowledgements_say_where_each_record_landed(bench: Bench) -> None:
    topic = bench.topic()
    records = bench.written(topic, [ProducerRecord(b"%d" % i) for i in range(3000)])
    assert [r.offset() for r in records] == list(range(3000))
    assert values(records) == [b"%d" % i for i in range(3000)]
    assert values(bench.take(bench.member(topic), 3000)) == values(records)


@CONTRACT
def records_too_large_are_reported_one_by_one(bench: Bench) -> None:
    topic = bench.topic(max_message_bytes=10_000)
    for value in (b"small", b"x" * 20_000, b"after", b"y" * 150_000_000, b"last"):
        [(error, record)] = bench.write(topic, [ProducerRecord(value)])
        if len(value) < 10_000:
            assert error is None, error
        else:
            assert error is not None, "taken"
            assert error.fault is Fault.TOO_LARGE, error
        assert (record.topic(), record.value()) == (topic, value)
    assert values(bench.take(bench.member(topic), 3)) == [b"small", b"after", b"last"]


@CONTRACT
def one_record_too_large_fails_no_other_of_its_batch(bench: Bench) -> None:
    topic = bench.topic(max_message_bytes=10_000)
    producer = bench.producer(linger=1.0)  # all are in one batch, even if this thread has to wait meanwhile
    small = [
        ProducerRecord(b"%d" % i, b"k", (("number", b"%d" % i), ("twice", b"1"), ("twice", None))) for i in range(100)
    ]
    records = [*small[:50], ProducerRecord(b"x" * 20_000, b"k"), *small[50:]]
    ends: list[tuple[BrokerError | None, Record]] = []
    assert producer.write(topic, records, lambda error, record: ends.append((error, record))) == 101
    assert producer.close(bench.seconds) == 0
    assert [(r.value(), e.fault) for e, r in ends if e] == [(b"x" * 20_000, Fault.TOO_LARGE)]
    assert [(r.value(), r.offset()) for e, r in ends if not e] == [(one.value, i) for i, one in enumerate(small)]
    got = bench.take(bench.member(topic), 100)
    assert values(got) == [one.value for one in small]
    assert [tuple(r.headers() or ()) for r in got] == [one.headers for one in small]


@CONTRACT
def records_that_are_too_large_together_are_written_all_the_same(bench: Bench) -> None:
    topic = bench.topic(max_message_bytes=10_000)
    producer = bench.producer(linger=0.2)
    errors: list[BrokerError | None] = []
    records = [ProducerRecord(b"%03d" % i + b"x" * 1000) for i in range(300)]
    assert producer.write(topic, records, lambda error, _: errors.append(error)) == 300
    assert producer.flush(bench.seconds) == 0
    assert errors == [None] * 300
    assert producer.close(bench.seconds) == 0
    assert sorted(r.value() or b"" for r in bench.take(bench.member(topic), 300)) == [one.value for one in records]


@CONTRACT
def no_batch_grows_beyond_its_limit(bench: Bench) -> None:
    topic = bench.topic(max_message_bytes=10_000)
    producer = bench.producer(linger=0.2, max_batch_bytes=10_000)
    errors: list[BrokerError | None] = []
    assert producer.write(topic, [ProducerRecord(b"x" * 1000)] * 100, lambda error, _: errors.append(error)) == 100
    assert producer.close(bench.seconds) == 0
    assert errors == [None] * 100
    assert bench.admin.watermarks(topic, bench.seconds)[0].high == 100


@CONTRACT
def a_record_that_cannot_be_taken_is_reported_and_the_rest_goes_on(bench: Bench) -> None:
    topic = bench.topic()
    ends = bench.write(topic, [ProducerRecord(b"1"), ProducerRecord(b"2", None, (), 99), ProducerRecord(b"3")])
    assert {r.value(): error and error.fault for error, r in ends} == {
        b"1": None,
        b"2": Fault.UNKNOWN_TOPIC,
        b"3": None,
    }
    assert values(bench.take(bench.member(topic), 2)) == [b"1", b"3"]


@CONTRACT
def a_full_queue_takes_a_part_and_keeps_the_order(bench: Bench) -> None:
    topic = bench.topic()
    producer = bench.producer(max_queue_bytes=100_000, linger=0.0)
    records = [ProducerRecord(b"%06d" % i + b"x" * 1000) for i in range(1000)]
    errors: list[BrokerError | None] = []
    rest = list(records)

    def write() -> None:
        nonlocal rest
        rest = rest[producer.write(topic, rest, lambda error, _: errors.append(error)) :]
        if rest:
            producer.flush(0.01)

    bench.until(lambda: not rest, write)
    assert producer.close(bench.seconds) == 0
    assert errors == [None] * 1000
    assert values(bench.take(bench.member(topic), 1000)) == [record.value for record in records]


@CONTRACT
def a_record_larger_than_the_queue_is_not_waited_for(bench: Bench) -> None:
    topic = bench.topic()
    producer = bench.producer(max_queue_bytes=10_000)
    ends: list[tuple[BrokerError | None, Record]] = []
    records = [ProducerRecord(b"x" * 20_000), ProducerRecord(b"y")]
    assert producer.write(topic, records, lambda error, record: ends.append((error, record))) == 2
    assert producer.close(bench.seconds) == 0
    faults = {r.value(): e and e.fault for e, r in ends}
    assert faults.pop(b"x" * 20_000) in (Fault.TOO_LARGE, None)
    assert faults == {b"y": None}


@CONTRACT
def an_error_in_an_acknowledgement_ends_nothing(bench: Bench) -> None:
    topic = bench.topic()
    producer = bench.producer()
    seen: list[bytes | None] = []

    def acknowledged(error: BrokerError | None, record: Record) -> None:
        seen.append(record.value())
        raise LookupError("a bug of the caller")

    assert producer.write(topic, [ProducerRecord(b"1"), ProducerRecord(b"2")], acknowledged) == 2
    assert producer.write(topic, [ProducerRecord(b"3")], acknowledged) == 1
    assert producer.close(bench.seconds) == 0
    assert seen == [b"1", b"2", b"3"]


@CONTRACT
def many_threads_may_write(bench: Bench) -> None:
    topic = bench.topic(3)
    producer = bench.producer()
    errors: list[BrokerError | None] = []

    def write(number: int) -> None:
        for i in range(50):
            one = ProducerRecord(b"%d-%d" % (number, i), b"%d" % number)
            assert producer.write(topic, [one], lambda error, _: errors.append(error)) == 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert producer.close(bench.seconds) == 0
    assert errors == [None] * 400
    got: dict[bytes | None, list[bytes | None]] = {}
    for record in bench.take(bench.member(topic), 400):
        got.setdefault(record.key(), []).append(record.value())
    assert got == {b"%d" % n: [b"%d-%d" % (n, i) for i in range(50)] for n in range(8)}


@CONTRACT
def other_acknowledgements_work_too(bench: Bench) -> None:
    topic = bench.topic()
    for acks in ("1", "0", "all"):
        producer = bench.producer(acks=acks)
        errors: list[BrokerError | None] = []
        assert producer.write(topic, [ProducerRecord(b"x")] * 10, lambda error, _, to=errors: to.append(error)) == 10  # type: ignore[misc]
        assert producer.close(bench.seconds) == 0
        assert errors == [None] * 10, acks
    assert len(bench.take(bench.member(topic), 30)) == 30


@CONTRACT
def a_closed_producer_refuses_records(bench: Bench) -> None:
    topic = bench.topic()
    producer = bench.producer()
    assert producer.write(topic, [ProducerRecord(b"x")], lambda error, _: None) == 1
    assert producer.close(bench.seconds) == 0
    assert producer.close(1) == 0
    assert isinstance(fault_of(lambda: producer.write(topic, [ProducerRecord(b"x")], lambda error, _: None)), Fault)


@CONTRACT
def partitions_are_counted(bench: Bench) -> None:
    producer = bench.producer()
    assert producer.partitions(bench.topic(5), bench.seconds) == 5

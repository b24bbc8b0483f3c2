"""Topics that do not exist: errors name them, and no client creates one, even where the broker creates requested topics
(auto.create.topics.enable)."""

from __future__ import annotations

import time
from collections.abc import Callable

from flux.core.errors import BrokerError, Fault
from flux.core.ports import BEGINNING, ProducerRecord, TopicPartition
from flux.testing.contract.bench import Bench, Contract, fault_of

CONTRACT = Contract()

_WHILE = 1 / 15  # of the bench's seconds; clients refresh their metadata meanwhile


def _stays_absent(bench: Bench, topic: str, doing: Callable[[], object] = lambda: time.sleep(0.1)) -> None:
    until = time.monotonic() + _WHILE * bench.seconds
    while time.monotonic() < until:
        doing()
    assert topic not in bench.admin.topic_names(bench.seconds), f"{topic} was made"
    assert bench.admin.topics([topic], bench.seconds) == {topic: None}


def _delete(bench: Bench, topic: str) -> None:
    bench.admin.delete_topics([topic], bench.seconds)
    bench.until(lambda: bench.admin.topics([topic], bench.seconds)[topic] is None)


@CONTRACT
def a_write_to_a_topic_that_does_not_exist_is_refused_and_makes_none(bench: Bench) -> None:
    there, missing = bench.topic(), bench.name()
    bench.written(there, [ProducerRecord(b"x")])
    assert fault_of(lambda: bench.producer().partitions(missing, bench.seconds)) is Fault.UNKNOWN_TOPIC
    [(error, record)] = bench.write(missing, [ProducerRecord(b"x", b"k")])
    assert error is not None, "taken"
    assert error.fault is Fault.UNKNOWN_TOPIC, error
    assert missing in str(error)
    assert (record.topic(), record.value()) == (missing, b"x")
    _stays_absent(bench, missing)


@CONTRACT
def a_producer_does_not_create_a_deleted_topic_again(bench: Bench) -> None:
    there, deleted = bench.topic(), bench.topic()
    producer = bench.producer(delivery_timeout=bench.seconds)
    ends: list[BrokerError | None] = []

    def write(topic: str) -> None:
        before = len(ends)
        producer.write(topic, [ProducerRecord(b"x")], lambda error, _: ends.append(error))
        producer.flush(bench.seconds)
        bench.until(lambda: len(ends) > before)

    producer.partitions(deleted, bench.seconds)
    write(deleted)
    assert ends == [None]
    _delete(bench, deleted)
    write(deleted)
    assert ends[-1] is not None, "taken"
    # The next writer begins with the same request.
    bench.until(lambda: _fault_of_partitions(bench, producer, deleted) is Fault.UNKNOWN_TOPIC)
    _stays_absent(bench, deleted, lambda: write(there))


def _fault_of_partitions(bench: Bench, producer: object, topic: str) -> Fault | None:
    try:
        producer.partitions(topic, bench.seconds)  # type: ignore[attr-defined]
    except BrokerError as error:
        return error.fault
    time.sleep(0.1)
    return None


@CONTRACT
def a_member_makes_no_topic(bench: Bench) -> None:
    missing, deleted = bench.name(), bench.topic()
    member = bench.member(deleted)
    bench.written(deleted, [ProducerRecord(b"x")])
    bench.take(member, 1)
    _delete(bench, deleted)
    _stays_absent(bench, deleted, lambda: _poll(member))
    member.close()
    without = bench.member(missing)
    _stays_absent(bench, missing, lambda: _poll(without))


def _poll(client: object) -> None:
    try:
        client.poll(1, 0.2)  # type: ignore[attr-defined]
    except BrokerError as error:
        if error.fault not in (Fault.UNKNOWN_TOPIC, Fault.UNAVAILABLE):
            raise


@CONTRACT
def a_reader_makes_no_topic(bench: Bench) -> None:
    missing = bench.name()
    reader = bench.reader({TopicPartition(missing, 0): BEGINNING})
    _stays_absent(bench, missing, lambda: _poll(reader))


@CONTRACT
def an_admin_makes_no_topic(bench: Bench) -> None:
    missing, group = bench.name(), bench.name()
    for ask in (bench.admin.topic_config, bench.admin.watermarks):
        assert fault_of(lambda ask=ask: ask(missing, bench.seconds)) is Fault.UNKNOWN_TOPIC  # type: ignore[misc]
    bench.admin.permissions([missing], [group], bench.seconds)
    assert bench.admin.committed_offsets(group, missing, bench.seconds) == {}
    _stays_absent(bench, missing)

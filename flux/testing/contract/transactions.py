"""Aborted records and markers of transactions in a log. Only with a bench that has `transact`."""

from __future__ import annotations

from flux.core.ports import BEGINNING, ProducerRecord
from flux.testing.contract.bench import Bench, Contract, at, brings_nothing, records_of, values

CONTRACT = Contract()


def _written(bench: Bench) -> str:
    assert bench.transact is not None
    topic = bench.topic()
    for value, commits in ((b"1", True), (b"aborted", False), (b"2", True), (b"aborted too", False)):
        bench.transact(topic, [value, value], commits)
    return topic


@CONTRACT
def records_of_aborted_transactions_are_not_delivered(bench: Bench) -> None:
    if bench.transact is None:
        return
    topic = _written(bench)
    [zero] = at(topic, 0)
    member = bench.member(topic)
    assert values(bench.take(member, 4)) == [b"1", b"1", b"2", b"2"]
    bench.nothing_comes(member)
    reader = bench.reader({zero: BEGINNING})
    read: list[bytes | None] = []
    bench.until(lambda: len(read) >= 4, lambda: read.extend(values(records_of(reader.poll(10, 0.1)))))
    assert read == [b"1", b"1", b"2", b"2"]
    for _ in range(5):
        assert records_of(reader.poll(10, 0.1)) == []


@CONTRACT
def the_end_is_reached_beyond_what_transactions_leave_there(bench: Bench) -> None:
    if bench.transact is None:
        return
    topic = _written(bench)
    [zero] = at(topic, 0)
    reached: dict[object, int] = {}

    def ends() -> bool:
        return reached.get(zero) == bench.admin.watermarks(topic, bench.seconds)[0].high

    member = bench.member(topic)
    bench.take(member, 4)
    bench.until(ends, lambda: reached.update(member.poll(10, 0.1).reached))
    bench.written(topic, [ProducerRecord(b"3")])
    [record] = bench.take(member, 1)
    assert record.offset() == reached[zero]
    bench.until(ends, lambda: reached.update(member.poll(10, 0.1).reached))
    member.close()
    reader = bench.reader({zero: BEGINNING})
    reached.clear()
    bench.until(ends, lambda: reached.update(reader.poll(10, 0.1).reached))


@CONTRACT
def a_partition_without_records_is_reached_at_its_end(bench: Bench) -> None:
    topic = bench.topic(2)
    bench.written(topic, [ProducerRecord(b"x", None, (), 0)] * 3)
    bench.admin.delete_records(topic, {0: 3}, bench.seconds)
    member = bench.member(topic)
    reached: dict[object, int] = {}

    def poll() -> None:
        polled = member.poll(10, 0.1)
        assert brings_nothing(polled), polled
        reached.update(polled.reached)

    bench.until(lambda: reached == dict(zip(at(topic, 0, 1), (3, 0), strict=True)), poll)

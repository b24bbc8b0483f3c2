"""Reading without a group, and what an operator does to groups and topics."""

from __future__ import annotations

import time
from collections.abc import Mapping

from flux.core.errors import Fault
from flux.core.ports import (
    BEGINNING,
    END,
    CommittedOffset,
    PollResult,
    ProducerRecord,
    ReaderPort,
    Record,
    TopicPartition,
)
from flux.testing.contract.bench import Bench, Contract, at, fault_of, records_of, values

CONTRACT = Contract()


def _read(bench: Bench, reader: ReaderPort, ends: Mapping[TopicPartition, int]) -> list[Record]:
    """Until `reached` says that these are the ends."""
    records: list[Record] = []
    reached: dict[TopicPartition, int] = {}

    def poll() -> None:
        polled = reader.poll(7, 0.5)
        assert polled.out_of_range == [], polled.out_of_range
        for batch in polled.batches:
            assert batch.records, "an empty batch"
            assert {TopicPartition(r.topic(), r.partition()) for r in batch.records} == {batch.partition}
        records.extend(records_of(polled))
        reached.update(polled.reached)

    bench.until(lambda: all(reached.get(name) == end for name, end in ends.items()), poll)
    return records


@CONTRACT
def a_reader_starts_at_its_offsets_and_reports_the_ends(bench: Bench) -> None:
    topic = bench.topic(4)
    zero, one, two, three = at(topic, 0, 1, 2, 3)
    bench.written(topic, [ProducerRecord(b"%d" % i, b"key", [("h", b"v")], i % 3) for i in range(60)])
    reader = bench.reader({zero: BEGINNING, one: 15, two: END, three: BEGINNING})
    records = _read(bench, reader, {zero: 20, one: 20, two: 20, three: 0})
    assert [r.offset() for r in records if r.partition() == 0] == list(range(20))
    assert [r.offset() for r in records if r.partition() == 1] == list(range(15, 20))
    assert len(records) == 25
    assert records[0].key() == b"key"
    assert list(records[0].headers() or ()) == [("h", b"v")]
    bench.written(topic, [ProducerRecord(b"late", None, (), 2)])
    assert values(_read(bench, reader, {two: 21})) == [b"late"]


@CONTRACT
def a_reader_delivers_from_the_offset_of_a_seek(bench: Bench) -> None:
    topic = bench.topic()
    [zero] = at(topic, 0)
    bench.written(topic, [ProducerRecord(b"%d" % i) for i in range(10)])
    reader = bench.reader({zero: 8})
    assert len(_read(bench, reader, {zero: 10})) == 2
    reader.seek(zero, 3)
    assert [r.offset() for r in _read(bench, reader, {zero: 10})] == list(range(3, 10))
    reader.seek(zero, BEGINNING)
    assert len(_read(bench, reader, {zero: 10})) == 10
    fault_of(lambda: reader.seek(TopicPartition(topic, 7), 0))


@CONTRACT
def a_reader_reports_out_of_range_and_continues_after_a_seek(bench: Bench) -> None:
    topic = bench.topic()
    [zero] = at(topic, 0)
    bench.written(topic, [ProducerRecord(b"%d" % i) for i in range(10)])
    bench.admin.delete_records(topic, {0: 6}, bench.seconds)
    reader = bench.reader({zero: 2})
    seen: list[PollResult] = []
    bench.until(lambda: any(polled.out_of_range for polled in seen), lambda: seen.append(reader.poll(100, 0.2)))
    assert [polled.batches for polled in seen if polled.batches] == []
    reader.seek(zero, 6)
    assert [r.offset() for r in _read(bench, reader, {zero: 10})] == [6, 7, 8, 9]


@CONTRACT
def a_reader_joins_no_group_and_an_empty_poll_ends_in_time(bench: Bench) -> None:
    topic = bench.topic()
    [zero] = at(topic, 0)
    reader = bench.reader({zero: BEGINNING})
    assert _read(bench, reader, {zero: 0}) == []
    began = time.monotonic()
    assert reader.poll(10, 0.3) == PollResult()
    assert 0.2 <= time.monotonic() - began < 3
    reader.close()
    assert fault_of(lambda: reader.poll(1, 0)) is Fault.FATAL


@CONTRACT
def a_reader_of_a_topic_that_is_not_there_fails(bench: Bench) -> None:
    reader = bench.reader({TopicPartition(bench.name(), 0): BEGINNING})

    def until_it_fails() -> None:
        deadline = time.monotonic() + bench.seconds
        while time.monotonic() < deadline:
            reader.poll(1, 0.5)

    assert fault_of(until_it_fails) is Fault.UNKNOWN_TOPIC


@CONTRACT
def offsets_are_found_by_time(bench: Bench) -> None:
    topic = bench.topic(2)
    base = int(time.time() * 1000) - 60_000
    bench.written(topic, [ProducerRecord(b"x", None, (), 0, base + 1000 * i) for i in range(10)])
    for after, offset in ((-5_000, 0), (0, 0), (2_500, 3), (9_000, 9), (9_001, 10)):
        found = bench.admin.offsets_at(topic, base + after, bench.seconds)
        assert found == {0: offset, 1: 0}, (after, found)
    assert fault_of(lambda: bench.admin.offsets_at(bench.name(), base, bench.seconds)) is Fault.UNKNOWN_TOPIC


@CONTRACT
def committed_offsets_of_a_group_without_members_are_set(bench: Bench) -> None:
    topic, group = bench.topic(2), bench.name()
    bench.written(topic, [ProducerRecord(b"%d" % i, None, (), 0) for i in range(5)])
    bench.admin.set_committed_offsets(group, topic, {0: CommittedOffset(3, "ä"), 1: CommittedOffset(0)}, bench.seconds)
    assert bench.admin.committed_offsets(group, topic, bench.seconds) == {
        0: CommittedOffset(3, "ä"),
        1: CommittedOffset(0),
    }
    bench.admin.set_committed_offsets(group, topic, {0: CommittedOffset(2)}, bench.seconds)
    bench.admin.set_committed_offsets(group, topic, {}, bench.seconds)
    assert bench.admin.committed_offsets(group, topic, bench.seconds) == {0: CommittedOffset(2), 1: CommittedOffset(0)}
    member = bench.member(topic, group, start=None)
    assert [r.offset() for r in bench.take(member, 3)] == [2, 3, 4]
    assert (
        fault_of(lambda: bench.admin.set_committed_offsets(group, topic, {0: CommittedOffset(0)}, bench.seconds))
        is Fault.FENCED
    )
    assert bench.admin.committed_offsets(group, topic, bench.seconds)[0] == CommittedOffset(2)


@CONTRACT
def the_members_of_a_group_are_listed_with_their_partitions(bench: Bench) -> None:
    topic, group = bench.topic(3), bench.name()
    assert bench.admin.members(group, bench.seconds) == []
    member = bench.member(topic, group)
    bench.join(member)
    [found] = bench.admin.members(group, bench.seconds)
    assert sorted(found.partitions) == at(topic, 0, 1, 2)
    assert found.id
    assert found.host
    member.close()
    bench.until(lambda: bench.admin.members(group, bench.seconds) == [])


@CONTRACT
def records_are_deleted_up_to_an_offset(bench: Bench) -> None:
    topic = bench.topic(2)
    bench.written(topic, [ProducerRecord(b"%d" % i, None, (), i % 2) for i in range(20)])
    bench.admin.delete_records(topic, {0: 4}, bench.seconds)
    bench.admin.delete_records(topic, {0: 2, 1: 10}, bench.seconds)
    bench.admin.delete_records(topic, {}, bench.seconds)
    marks = bench.admin.watermarks(topic, bench.seconds)
    assert {number: tuple(mark) for number, mark in marks.items()} == {0: (4, 10), 1: (10, 10)}
    fault_of(lambda: bench.admin.delete_records(topic, {0: 11}, bench.seconds))
    assert bench.admin.watermarks(topic, bench.seconds) == marks

"""The transactional producer of an adapter that has one (`flux.core.ports.TransactionalCluster`)."""

from __future__ import annotations

import os
from functools import partial

from flux.core.errors import Fault
from flux.core.ports import (
    BEGINNING,
    CommittedOffset,
    InDoubt,
    ProducerRecord,
    ReaderPort,
    Record,
    Superseded,
    TopicPartition,
)
from flux.testing.contract.bench import (
    Bench,
    Contract,
    at,
    error_of,
    fault_of,
    records_of,
    values,
)
from flux.testing.contract.members import membership_of

CONTRACT = Contract()


def _read(bench: Bench, reader: ReaderPort, count: int) -> list[Record]:
    read: list[Record] = []
    bench.until(lambda: len(read) >= count, lambda: read.extend(records_of(reader.poll(10, 0.1))))
    return read


def _nothing_comes(reader: ReaderPort) -> None:
    for _ in range(5):
        assert records_of(reader.poll(10, 0.1)) == []


@CONTRACT.transactional
def records_and_offsets_of_two_groups_become_visible_together(bench: Bench) -> None:
    topics, groups, out = [bench.topic(), bench.topic()], [bench.name(), bench.name()], bench.topic(2)
    work = list(zip(topics, groups, strict=True))
    members = [bench.joined(topic, group) for topic, group in work]
    committed = {0: CommittedOffset(1, "flux-1:äß7~")}
    reader = bench.reader(dict.fromkeys(at(out, 0, 1), BEGINNING))
    with bench.transaction() as transactions:
        transactions.write(out, [ProducerRecord(b"a", b"k", [("h", b"v")], 0), ProducerRecord(b"b", None, (), 1)])
        for member, topic in zip(members, topics, strict=True):
            offsets = {TopicPartition(topic, number): offset for number, offset in committed.items()}
            transactions.add_offsets(membership_of(member), offsets, bench.seconds)
        transactions.flush(bench.seconds)
        _nothing_comes(reader)
        assert bench.admin.stable_offsets(out, bench.seconds) == {0: 0, 1: 0}
        for topic, group in work:
            assert fault_of(partial(bench.admin.committed_offsets, group, topic, 0.5)) is Fault.UNAVAILABLE
        transactions.commit(bench.seconds)
    [a, b] = sorted(_read(bench, reader, 2), key=lambda record: record.partition())
    assert (a.value(), a.key(), list(a.headers() or ()), b.value()) == (b"a", b"k", [("h", b"v")], b"b")
    for topic, group in work:
        assert bench.admin.committed_offsets(group, topic, bench.seconds) == committed


@CONTRACT.transactional
def transactions_follow_each_other_and_the_end_is_reached_beyond_their_markers(bench: Bench) -> None:
    topic = bench.topic()
    [zero] = at(topic, 0)
    member, reader = bench.member(topic), bench.reader({zero: BEGINNING})
    transactions = bench.transactions()
    for number in range(3):
        transactions.begin()
        transactions.write(topic, [ProducerRecord(b"%d" % number)] * 2)
        transactions.commit(bench.seconds)
    expected = [b"0", b"0", b"1", b"1", b"2", b"2"]
    whole = bench.polled([member], lambda whole: whole.reached.get(zero) == 9)
    assert values(records_of(whole)) == expected
    read: list[Record] = []
    reached: dict[TopicPartition, int] = {}

    def poll() -> None:
        polled = reader.poll(10, 0.1)
        read.extend(records_of(polled))
        reached.update(polled.reached)

    bench.until(lambda: reached.get(zero) == 9, poll)
    assert values(read) == expected
    assert transactions.partitions(topic, bench.seconds) == 1


@CONTRACT.transactional
def an_open_transaction_hides_the_records_behind_it(bench: Bench) -> None:
    topic = bench.topic()
    [zero] = at(topic, 0)
    member, reader = bench.member(topic), bench.reader({zero: BEGINNING})
    bench.join(member)
    with bench.transaction() as transactions:
        transactions.write(topic, [ProducerRecord(b"first")])
        transactions.flush(bench.seconds)
        bench.written(topic, [ProducerRecord(b"behind")])
        bench.nothing_comes(member)
        _nothing_comes(reader)
        transactions.commit(bench.seconds)
    assert values(bench.take(member, 2)) == [b"first", b"behind"]
    assert values(_read(bench, reader, 2)) == [b"first", b"behind"]


@CONTRACT.transactional
def what_a_client_leaves_open_ends_when_the_next_one_of_its_id_starts(bench: Bench) -> None:
    source, topic, group, name = bench.topic(), bench.topic(), bench.name(), bench.name()
    [zero] = at(topic, 0)
    member, reader = bench.joined(source, group), bench.reader({zero: BEGINNING})
    with bench.transaction(name) as former:
        former.write(topic, [ProducerRecord(b"lost")])
        former.flush(bench.seconds)
        former.add_offsets(membership_of(member), {TopicPartition(source, 0): CommittedOffset(1)}, bench.seconds)
    bench.written(topic, [ProducerRecord(b"behind")])
    _nothing_comes(reader)
    with bench.transaction(name) as later:
        assert bench.admin.committed_offsets(group, source, bench.seconds) == {}
        later.write(topic, [ProducerRecord(b"kept")])
        later.commit(bench.seconds)
    assert values(_read(bench, reader, 2)) == [b"behind", b"kept"]


@CONTRACT.transactional
def a_client_is_superseded_by_the_next_one_of_its_id(bench: Bench) -> None:
    topic, name = bench.topic(), bench.name()
    [zero] = at(topic, 0)
    former = bench.transactions(name)
    former.begin()
    former.write(topic, [ProducerRecord(b"early")])
    former.flush(bench.seconds)
    with bench.transaction(name) as later:

        def commit_former() -> None:
            former.write(topic, [ProducerRecord(b"late")])
            former.commit(bench.seconds)

        error = error_of(commit_former)
        assert isinstance(error, Superseded | InDoubt), repr(error)
        assert (error.fault, error.retriable) == (Fault.FENCED, False), repr(error)
        later.write(topic, [ProducerRecord(b"kept")])
        later.commit(bench.seconds)
    assert values(_read(bench, bench.reader({zero: BEGINNING}), 1)) == [b"kept"]


@CONTRACT.transactional
def a_record_that_is_refused_fails_the_commit(bench: Bench) -> None:
    topic, small, name = bench.topic(), bench.topic(max_message_bytes=2000), bench.name()
    with bench.transaction(name) as transactions:
        transactions.write(topic, [ProducerRecord(b"fits")])
        transactions.write(small, [ProducerRecord(os.urandom(5000))])
        error = error_of(partial(transactions.commit, bench.seconds))
        assert not isinstance(error, InDoubt)
        assert error.fault is Fault.TOO_LARGE, repr(error)
    bench.transactions(name)
    bench.written(topic, [ProducerRecord(b"later")])
    [record] = _read(bench, bench.reader({TopicPartition(topic, 0): BEGINNING}), 1)
    assert record.value() == b"later"


@CONTRACT.transactional
def one_by_one_a_refused_record_is_named(bench: Bench) -> None:
    small = bench.topic(max_message_bytes=2000)
    refused: list[tuple[int, Fault]] = []
    records = [ProducerRecord(b"fits"), ProducerRecord(os.urandom(5000)), ProducerRecord(b"fits too")]
    with bench.transaction(one_by_one=True) as transactions:
        transactions.write(small, records, lambda index, error: refused.append((index, error.fault)))
        transactions.flush(bench.seconds)
        assert refused == [(1, Fault.TOO_LARGE)]
        assert fault_of(partial(transactions.commit, bench.seconds)) is Fault.TOO_LARGE


@CONTRACT.transactional
def a_commit_in_doubt_is_repeated(bench: Bench) -> None:
    topic = bench.topic()
    transactions = bench.transactions()
    for number in range(3):
        transactions.begin()
        transactions.write(topic, [ProducerRecord(b"%d" % number)] * 100)
        try:
            transactions.commit(0.001)
        except InDoubt as error:
            if not error.retriable:
                raise
            transactions.commit(bench.seconds)
    with bench.transaction() as other:
        other.write(topic, [ProducerRecord(b"end")])
        other.commit(bench.seconds)
    read = values(_read(bench, bench.reader({TopicPartition(topic, 0): BEGINNING}), 301))
    assert read == [b"0"] * 100 + [b"1"] * 100 + [b"2"] * 100 + [b"end"]

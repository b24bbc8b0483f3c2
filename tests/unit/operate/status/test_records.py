"""Counting records where transactions leave gaps, and the first record of each partition."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from flux.core import flux_headers
from flux.core.errors import ConfigurationError
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition, TransactionSettings
from flux.operate.reading import Span
from flux.operate.status import records
from flux.operate.status.blockers import LONG, blockers_of
from flux.operate.status.records import Counted, Gaps, examine
from flux.operate.status.status import read_status
from flux.operate.status.task_status import TaskStatus
from unit.support.memory_support import START
from unit.support.operate_support import DEAD, MAIN, NOW_MS, RETRY, OperateKit

P0, P1 = TopicPartition(MAIN, 0), TopicPartition(MAIN, 1)


@pytest.fixture
def yard() -> OperateKit:
    return OperateKit(2)


class Writer:
    def __init__(self, yard: OperateKit) -> None:
        self.transactions = yard.adapter.transactions(TransactionSettings("w", timeout=1000.0))
        self.transactions.start(5)

    def begin(self, topic: str, *values: bytes, headers: Any = ()) -> None:
        self.transactions.begin()
        self.transactions.write(topic, [ProducerRecord(value, b"k", headers, 0) for value in values])

    def each(self, topic: str, *values: bytes, headers: Any = ()) -> None:
        """A transaction for each value."""
        for value in values:
            self.begin(topic, value, headers=headers)
            self.transactions.commit(5)


def look(yard: OperateKit, before: TaskStatus | None = None, **policy: Any) -> TaskStatus:
    policy = {"exactly_once": True} | policy
    return read_status(yard.adapter, yard.admin, attrs.evolve(yard.policy, **policy), None, before, system=yard.system)


def test_markers_are_no_dead_letters(yard: OperateKit) -> None:
    Writer(yard).each(DEAD, b"a", b"b", b"c")
    found = look(yard)
    assert (found.dead_letters, found.most_dead_letters) == (3, False)


def test_what_may_be_aborted_is_no_dead_letter_and_what_was_aborted_neither(yard: OperateKit) -> None:
    writer = Writer(yard)
    writer.each(DEAD, b"a")
    writer.begin(DEAD, b"b")
    writer.transactions.flush(5)
    found = look(yard)
    assert (found.dead_letters, found.most_dead_letters) == (1, False)
    Writer(yard)  # aborts it
    again = look(yard, found)
    assert (again.dead_letters, again.most_dead_letters) == (1, False)


def test_markers_are_no_lag_in_any_stage(yard: OperateKit) -> None:
    writer = Writer(yard)
    writer.each(MAIN, b"a", b"b")
    writer.each(RETRY, b"c", b"d", b"e", headers=[(flux_headers.DUE, b"%d" % (NOW_MS + 60_000))])
    found = look(yard)
    main, retry, _ = found.stages
    assert (main.lag, retry.lag, found.waiting(retry)) == (2, 3, 3)
    assert not any(map(found.most_lag, found.stages))


def test_a_stage_at_its_end_has_no_lag_even_if_its_last_offset_is_a_marker(yard: OperateKit) -> None:
    Writer(yard).each(MAIN, b"a")
    yard.broker.set_committed_offset("billing", P0, CommittedOffset(1))
    main = look(yard).stages[0]
    assert (main.watermarks[0].high, main.lag, main.oldest_unfinished) == (2, 0, {})


def test_markers_are_not_behind_a_blocker(yard: OperateKit) -> None:
    Writer(yard).each(MAIN, b"a", b"b", b"c")
    yard.system.sleep(LONG)
    [blocker] = blockers_of(look(yard), {})
    assert blocker.behind == 2


def test_more_dead_letters_are_counted_with_each_snapshot(yard: OperateKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.operate.status.status.MAX_COUNTED", 8)
    Writer(yard).each(DEAD, b"a", b"b", b"c")
    first = look(yard)
    assert (first.dead_letters, first.most_dead_letters) == (4, True), "two records, and two offsets"
    second = look(yard, first)
    assert (second.dead_letters, second.most_dead_letters) == (3, False)
    yard.system.sleep(1)
    Writer(yard).each(DEAD, b"d")
    third = look(yard, second)
    assert third.dead_letters == 4
    assert third.dead_rate(second) == pytest.approx(1.0, rel=0.1)


def test_dead_letters_are_counted_anew_when_the_oldest_are_deleted(yard: OperateKit) -> None:
    Writer(yard).each(DEAD, b"a", b"b", b"c")
    before = look(yard)
    yard.broker.delete_records(TopicPartition(DEAD, 0), 1)
    assert look(yard, before).dead_letters == 2


def test_without_transactions_offsets_are_taken_for_records(yard: OperateKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_COUNTED", 2)
    yard.kit.write(*(ProducerRecord(b"v", partition=0) for _ in range(5)), topic=MAIN)
    found = look(yard, exactly_once=False)
    assert (found.stages[0].lag, found.stages[0].counted, found.most_lag(found.stages[0])) == (5, False, False)
    assert found.most_lag(look(yard).stages[0]) is False
    assert look(yard).most_lag(found.stages[0]) is True, "markers may be among them"


def test_what_arrives_in_the_next_stage_is_counted_without_markers(yard: OperateKit) -> None:
    before = look(yard)
    yard.system.sleep(2)
    Writer(yard).each(RETRY, b"a", b"b")
    found = look(yard, before)
    assert found.rates(found.stages[0], before).failed == pytest.approx(1.0, rel=0.1)


# -- reading


@pytest.fixture
def reads(yard: OperateKit, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each reader has delivered."""
    counts: list[int] = []
    real = yard.adapter.reader

    def reader(starts: Any) -> Any:
        client = real(starts)
        poll = client.poll
        counts.append(0)

        def counted(most: int, timeout: float) -> Any:
            polled = poll(min(most, 2), timeout)
            counts[-1] += sum(len(batch.records) for batch in polled.batches)
            return polled

        monkeypatch.setattr(client, "poll", counted, raising=False)
        return client

    monkeypatch.setattr(yard.adapter, "reader", reader)
    return counts


def test_a_partition_is_examined_to_the_end_of_its_span(yard: OperateKit) -> None:
    yard.kit.write(*(ProducerRecord(b"v", partition=0) for _ in range(3)), topic=MAIN)
    yard.broker.skip_offsets(P0, 3)
    yard.kit.write(*(ProducerRecord(b"v", partition=0) for _ in range(3)), topic=MAIN)
    found = examine(yard.adapter, {P0: Span(1, 8), P1: Span(0, 0)}, system=yard.system)
    assert found.gaps[P0] == Gaps(1, 8, ((3, 6),))
    assert found.gaps[P0].records(0, 9) == 6
    assert found.first[P0].offset() == 1


def test_of_a_long_partition_only_the_first_record_is_read(
    yard: OperateKit, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_COUNTED", 10)
    yard.kit.write(*(ProducerRecord(b"v", partition=0) for _ in range(20)), topic=MAIN)
    yard.kit.write(*(ProducerRecord(b"v", partition=1) for _ in range(5)), topic=MAIN)
    found = examine(yard.adapter, {P0: Span(0, 20), P1: Span(0, 5)}, system=yard.system)
    assert set(found.first) == {P0, P1}
    assert (found.gaps[P0], found.gaps[P1]) == (Gaps(0, 1), Gaps(0, 5))
    assert sum(reads) < 15


def test_counting_ends_where_the_records_are_large(
    yard: OperateKit, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_BYTES", 100)
    yard.kit.write(*(ProducerRecord(b"v" * 60, partition=0) for _ in range(20)), topic=MAIN)
    found = examine(yard.adapter, {P0: Span(0, 20)}, system=yard.system)
    assert found.gaps[P0] == Gaps(0, 2)
    assert sum(reads) == 2


def test_reading_ends_where_there_are_no_records(yard: OperateKit) -> None:
    yard.kit.write(ProducerRecord(b"v", partition=0), topic=MAIN)
    yard.broker.skip_offsets(P1, 3)
    found = examine(yard.adapter, {P0: Span(0, 1), P1: Span(0, 3)}, system=yard.system)
    assert {at.partition: record.offset() for at, record in found.first.items()} == {0: 0}
    assert found.gaps[P1] == Gaps(0, 3, ((0, 3),))
    assert yard.system.now() - START < 5


def test_an_open_transaction_ends_the_examination(yard: OperateKit) -> None:
    writer = Writer(yard)
    writer.each(MAIN, b"a")
    writer.begin(MAIN, b"b")
    writer.transactions.flush(5)
    found = examine(yard.adapter, {P0: Span(0, 3)}, system=yard.system)
    assert found.gaps[P0] == Gaps(0, 2, ((1, 2),))
    assert yard.system.now() - START < 5


def test_reading_is_bounded_in_time(yard: OperateKit) -> None:
    yard.broker.available = False
    assert examine(yard.adapter, {P0: Span(0, 1)}, system=yard.system).first == {}
    assert yard.system.now() - START < 6


def test_the_first_record_of_a_partition_that_was_cut_meanwhile_is_its_oldest(yard: OperateKit) -> None:
    yard.kit.write(*(ProducerRecord(b"%d" % n, partition=0) for n in range(5)), topic=MAIN)
    yard.broker.delete_records(P0, 3)
    found = examine(yard.adapter, {P0: Span(1, 5)}, system=yard.system)
    assert found.first[P0].offset() == 3
    assert found.gaps[P0].records(1, 5) == 2


def test_dead_letters_that_came_since_are_not_fewer_than_none() -> None:
    before = Counted(0, 10, 0, 0)
    assert Counted(0, 12, 12, 6).since(before) == 2
    assert Counted(0, 12, 12, 6).since(Counted(0, 10, 10, 5)) == 1
    assert Counted(5, 12, 12, 6).since(Counted(0, 10, 10, 5)) == 2


def test_dead_letters_that_the_client_cannot_read_leave_the_rest_of_the_status(
    yard: OperateKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.kit.write(ProducerRecord(b"v", partition=0), topic=MAIN)
    Writer(yard).each(DEAD, b"a")
    real = yard.adapter.reader

    def reader(starts: Any) -> Any:
        if any(at.topic == DEAD for at in starts):
            raise ConfigurationError("no library for zstd")
        return real(starts)

    monkeypatch.setattr(yard.adapter, "reader", reader)
    found = look(yard)
    assert (found.dead_letters, found.most_dead_letters, found.stages[0].lag) == (2, True, 1)


# -- transactions that hold readers back


def test_a_transaction_that_does_not_end_is_named_in_each_stage_and_in_the_dead_letters(yard: OperateKit) -> None:
    writer = Writer(yard)
    for topic in (MAIN, DEAD):
        writer.each(topic, b"a")
    writer.transactions.begin()
    for topic in (MAIN, DEAD):
        writer.transactions.write(topic, [ProducerRecord(b"v", partition=0)])
    writer.transactions.flush(5)
    yard.system.sleep(60)
    found = look(yard)
    assert {each.at: each.offset for each in found.held_back} == {P0: 2, TopicPartition(DEAD, 0): 2}
    assert found.at - found.held_back[0].since == pytest.approx(63, abs=1.5)
    began = yard.system.now()
    assert look(yard, found).held_back == found.held_back
    assert yard.system.now() - began < 1, "what is known already is not waited for"
    writer.transactions.commit(5)
    assert look(yard, found).held_back == []


def test_without_open_transactions_nothing_is_waited_for(yard: OperateKit) -> None:
    Writer(yard).each(MAIN, b"a")
    assert look(yard).held_back == []
    assert yard.system.now() - START < 1

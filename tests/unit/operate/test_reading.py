"""Reading a topic as it is now: all of it, no further, in bounded memory and time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.errors import BrokerError, Fault
from flux.core.ports import TopicPartition
from flux.operate import reading
from flux.operate.reading import MAX_RECORDS, Span, count_offsets, pieces_of, read, read_one, read_pieces, spans_of
from unit.support.memory_support import START
from unit.support.operate_support import DEAD, OperateKit


def offsets(yard: OperateKit, spans: dict[int, Span]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {number: [] for number in spans}
    for batch in read(yard.adapter, DEAD, spans, system=yard.system):
        assert len(batch.records) <= MAX_RECORDS
        found[batch.partition] += [record.offset() for record in batch.records]
    return found


def test_it_ends_where_the_topic_ended_at_the_start() -> None:
    yard = OperateKit(2)
    yard.bury({"at": 0}, {"at": 1}, {"at": 1})
    spans = spans_of(yard.admin, DEAD)
    assert (spans, count_offsets(spans)) == ({0: Span(0, 1), 1: Span(0, 2)}, 3)
    yard.bury({"at": 0}, {"at": 1})
    assert offsets(yard, spans) == {0: [0], 1: [0, 1]}


@given(st.sets(st.integers(0, 59), max_size=12), st.integers(1, 20), st.integers(1, 5))
def test_pieces_are_read_and_nothing_else(wanted: set[int], deleted: int, near: int) -> None:
    yard = OperateKit()
    yard.bury(*[{} for _ in range(40)])
    yard.broker.skip_offsets(TopicPartition(DEAD, 0), 9)
    yard.bury(*[{} for _ in range(11)])
    yard.broker.delete_records(TopicPartition(DEAD, 0), deleted)
    spans = spans_of(yard.admin, DEAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_RECORDS", near)
        pieces = pieces_of(sorted(wanted), spans[0])
        found = [
            (record.offset(), batch.reached)
            for batch in read_pieces(yard.adapter, DEAD, {0: pieces}, system=yard.system)
            for record in batch.records
        ]
    there = {offset for offset in wanted if deleted <= offset < 40 or 49 <= offset < 60}
    offsets = [offset for offset, _ in found]
    assert offsets == sorted(set(offsets))
    assert there <= set(offsets)
    assert set(offsets) <= {offset for piece in pieces for offset in range(*piece)}
    assert all(offset < reached for offset, reached in found)


def test_an_empty_topic_is_not_read() -> None:
    yard = OperateKit()
    yard.broker.available = False
    assert list(read(yard.adapter, DEAD, {0: Span(3, 3)}, system=yard.system)) == []


def test_the_last_piece_reaches_the_end_also_where_no_record_is() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    yard.broker.skip_offsets(TopicPartition(DEAD, 0), 4)
    batches = list(read(yard.adapter, DEAD, spans_of(yard.admin, DEAD), system=yard.system))
    assert [batch.reached for batch in batches] == [2, 6]


def test_what_is_deleted_meanwhile_is_passed_over() -> None:
    yard = OperateKit()
    yard.bury({}, {}, {})
    spans = spans_of(yard.admin, DEAD)
    yard.broker.delete_records(TopicPartition(DEAD, 0), 2)
    assert offsets(yard, spans) == {0: [2]}
    yard.broker.delete_records(TopicPartition(DEAD, 0), 3)
    assert offsets(yard, spans) == {0: []}


def test_since_begins_by_the_time_index() -> None:
    yard = OperateKit()
    yard.bury({}, {}, {})
    assert spans_of(yard.admin, DEAD, int(START * 1000) + 2) == {0: Span(2, 3)}
    assert spans_of(yard.admin, DEAD, int(START * 1000) + 9) == {0: Span(3, 3)}


def test_a_cluster_that_is_unavailable_ends_it_in_bounded_time() -> None:
    yard = OperateKit()
    yard.bury({})
    spans = spans_of(yard.admin, DEAD)
    yard.broker.available = False
    with pytest.raises(BrokerError, match="no record of") as raised:
        offsets(yard, spans)
    assert raised.value.fault is Fault.UNAVAILABLE
    assert yard.system.now() - START < 40
    with pytest.raises(BrokerError, match="no answer from"):
        read_one(yard.adapter, TopicPartition(DEAD, 0), 0, spans[0], system=yard.system)


def test_one_record_is_found_or_is_not_there() -> None:
    yard = OperateKit()
    yard.bury({}, {}, {})
    yard.broker.skip_offsets(TopicPartition(DEAD, 0), 1)
    yard.bury({})
    yard.broker.delete_records(TopicPartition(DEAD, 0), 1)

    def found(offset: int, span: Span | None) -> bool:
        record = read_one(yard.adapter, TopicPartition(DEAD, 0), offset, span, system=yard.system)
        return record is not None and record.offset() == offset

    assert [found(offset, Span(0, 9)) for offset in range(7)] == [False, True, True, False, True, False, False]
    assert [found(1, span) for span in (Span(2, 9), Span(0, 1), None)] == [False] * 3

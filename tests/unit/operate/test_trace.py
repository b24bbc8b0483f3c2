"""Tracing: what is found in which stage, what that means, and what is said when not all was read."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core import flux_headers
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.errors import ConfigurationError
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition
from flux.operate.record_history import RecordState
from flux.operate.trace import MAX_FOUND, TraceLimits, TraceQuery, TraceResult, trace
from unit.support.operate_support import DEAD, MAIN, NOW_MS, RETRY, OperateKit, headers_of

RETRY_2 = "orders-billing-try-2"


class Office(OperateKit):
    """Records of key k; positions as workers leave them."""

    def produce(self, count: int = 1, key: bytes = b"k", at: int = NOW_MS - 60_000, partition: int = 0) -> None:
        self.kit.write(*(ProducerRecord(b"v", key, (), partition, at) for _ in range(count)), topic=MAIN)

    def forward(
        self, topic: str, stage: int, origin: int, due: int | None, at: int, key: bytes = b"k", **more: Any
    ) -> None:
        headers = [
            pair
            for pair in headers_of(**more)
            if pair[0] not in (flux_headers.STAGE, flux_headers.ATTEMPTS, flux_headers.ORIGIN_OFFSET)
        ]
        numbers = {flux_headers.STAGE: stage, flux_headers.ATTEMPTS: stage, flux_headers.ORIGIN_OFFSET: origin} | (
            {flux_headers.DUE: due} if due else {}
        )
        headers += [(name, str(value).encode()) for name, value in numbers.items()]
        self.kit.write(ProducerRecord(b"v", key, headers, more.get("partition", 0), at), topic=topic)

    def passed(self, group: str, topic: str, offset: int, done: Any = ()) -> None:
        position = CommittedOffset(offset, OffsetTracker(offset, done).metadata())
        self.broker.set_committed_offset(group, TopicPartition(topic, 0), position)

    def trace(self, origin: tuple[int, int] | None = None, key: bytes | None = None, **limits: Any) -> TraceResult:
        query = TraceQuery(key, origin)
        return trace(self.adapter, self.admin, self.policy, query, TraceLimits(**limits), system=self.system)


@pytest.fixture
def office() -> Office:
    return Office()


def seen(found: TraceResult, history: int = 0) -> list[tuple[str, int, RecordState]]:
    return [(each.stage.topic, each.offset, each.state) for each in found.histories[history].records]


def test_a_record_that_was_not_reached_yet_is_open_in_the_main_topic(office: Office) -> None:
    office.produce(3)
    office.passed("billing", MAIN, 1)
    found = office.trace(origin=(0, 2))
    assert seen(found) == [(MAIN, 2, RecordState.DUE)]
    assert found.histories[0].now is found.histories[0].records[0]
    assert found.unread == []


@pytest.mark.parametrize("done", [(), [(2, 3)]])
def test_a_record_that_the_group_has_passed_and_that_is_nowhere_else_is_done(office: Office, done: Any) -> None:
    office.produce(3)
    office.passed("billing", MAIN, 0 if done else 3, done)
    found = office.trace(origin=(0, 2))
    assert seen(found) == [(MAIN, 2, RecordState.PASSED)]
    assert found.histories[0].now is None


def test_all_of_the_way_to_the_dead_letters_is_found(office: Office) -> None:
    office.produce(2)
    office.passed("billing", MAIN, 2)
    office.forward(RETRY, 1, origin=1, due=NOW_MS - 30_000, at=NOW_MS - 50_000)
    office.forward(RETRY, 1, origin=0, due=NOW_MS - 30_000, at=NOW_MS - 50_000)
    office.passed("billing-1", RETRY, 2)
    office.forward(RETRY_2, 2, origin=1, due=NOW_MS - 10_000, at=NOW_MS - 30_000)
    office.passed("billing-2", RETRY_2, 1)
    office.forward(DEAD, 3, origin=1, due=None, at=NOW_MS - 9_000)
    found = office.trace(origin=(0, 1))
    assert seen(found) == [
        (MAIN, 1, RecordState.PASSED),
        (RETRY, 0, RecordState.PASSED),
        (RETRY_2, 0, RecordState.PASSED),
        (DEAD, 0, RecordState.DEAD),
    ]
    history = found.histories[0]
    assert history.now is history.records[-1]
    assert (history.now.error, history.now.attempts) == ("ValueError: no customer 17", 3)


def test_a_record_that_waits_says_until_when(office: Office) -> None:
    office.produce()
    office.passed("billing", MAIN, 1)
    office.forward(RETRY, 1, origin=0, due=NOW_MS + 45_000, at=NOW_MS)
    now = office.trace(origin=(0, 0)).histories[0].now
    assert now is not None
    assert (now.state, now.due) == (RecordState.WAITING, NOW_MS + 45_000)


def test_a_record_without_headers_is_due_by_the_stages_shortest_wait(office: Office) -> None:
    office.kit.write(ProducerRecord(b"v", b"k", (), 0, NOW_MS), topic=RETRY)
    [history] = office.trace(key=b"k").histories
    assert history.now is not None
    assert history.now.due == NOW_MS + 16_000  # 1**4 + 15


def test_a_copy_left_by_a_crash_is_counted(office: Office) -> None:
    office.produce()
    office.forward(RETRY, 1, origin=0, due=NOW_MS - 1, at=NOW_MS - 50)
    history = office.trace(origin=(0, 0)).histories[0]
    assert history.copies == 2


def test_a_key_finds_each_of_its_records_and_no_other(office: Office) -> None:
    office.produce(2)
    office.produce(3, key=b"other")
    office.passed("billing", MAIN, 5)
    office.forward(RETRY, 1, origin=1, due=NOW_MS + 5, at=NOW_MS - 5)
    office.forward(RETRY, 1, origin=3, due=NOW_MS + 5, at=NOW_MS - 5, key=b"other")
    found = office.trace(key=b"k")
    assert [history.id for history in found.histories] == ["orders/0/0", "orders/0/1"]
    assert found.histories[0].now is None
    assert seen(found, 1) == [(MAIN, 1, RecordState.PASSED), (RETRY, 0, RecordState.WAITING)]


def test_a_key_is_looked_for_since_a_time_only(office: Office) -> None:
    office.produce(at=NOW_MS - 9_000_000)
    office.produce(at=NOW_MS - 1_000)
    assert [history.id for history in office.trace(key=b"k", since_ms=NOW_MS - 5_000).histories] == ["orders/0/1"]


def test_only_what_is_younger_than_the_origin_is_read(office: Office) -> None:
    office.produce()
    for _ in range(50):
        office.forward(RETRY, 1, origin=9, due=NOW_MS, at=NOW_MS - 9_000_000, key=b"other")
    office.forward(RETRY, 1, origin=0, due=NOW_MS, at=NOW_MS - 50_000)
    assert office.trace(origin=(0, 0)).read == 2


def test_stages_behind_one_that_has_nothing_are_not_read(office: Office) -> None:
    office.produce()
    office.forward(RETRY_2, 2, origin=9, due=NOW_MS, at=NOW_MS - 5)
    assert office.trace(origin=(0, 0)).read == 1
    office.forward(RETRY, 1, origin=0, due=NOW_MS, at=NOW_MS - 5)
    assert office.trace(origin=(0, 0)).read == 3


def test_a_stage_whose_oldest_records_are_deleted_spares_nothing(office: Office) -> None:
    office.produce()
    office.forward(RETRY, 1, origin=0, due=NOW_MS, at=NOW_MS - 500)
    office.forward(RETRY_2, 2, origin=0, due=NOW_MS, at=NOW_MS - 5)
    office.broker.delete_records(TopicPartition(RETRY, 0), 1)
    assert [topic for topic, *_ in seen(office.trace(origin=(0, 0)))] == [MAIN, RETRY_2]


def test_when_the_bound_is_hit_it_says_what_was_not_read(office: Office) -> None:
    office.produce()
    for _ in range(40):
        office.forward(RETRY, 1, origin=9, due=NOW_MS, at=NOW_MS - 5, key=b"other")
    office.forward(DEAD, 3, origin=0, due=None, at=NOW_MS)
    found = office.trace(origin=(0, 0), records=9)
    assert found.read == 9, "what the others did not need is used"
    assert [each.topic for each in found.unread] == [RETRY]
    assert found.unread[0].offsets == 33
    assert seen(found)[-1] == (DEAD, 0, RecordState.DEAD), "each topic has its share"


def test_when_time_is_up_it_says_what_was_not_read(office: Office) -> None:
    office.produce()
    office.forward(RETRY, 1, origin=0, due=NOW_MS, at=NOW_MS - 5)
    found = office.trace(origin=(0, 0), seconds=0)
    assert [each.topic for each in found.unread] == [RETRY]


def test_the_partition_of_forwarded_copies_is_read_first() -> None:
    office = Office(3)
    office.produce(partition=2)
    for partition in (0, 1, 2):
        for _ in range(10):
            office.forward(RETRY, 1, origin=9, due=NOW_MS, at=NOW_MS - 5, key=b"o", partition=partition)
    office.forward(RETRY, 1, origin=0, due=NOW_MS + 9, at=NOW_MS - 5, partition=2)
    found = office.trace(origin=(2, 0), records=40)
    assert seen(found)[-1] == (RETRY, 10, RecordState.WAITING)


def test_an_origin_that_is_deleted_is_found_by_what_became_of_it(office: Office) -> None:
    office.produce(2)
    office.broker.delete_records(TopicPartition(MAIN, 0), 2)
    office.forward(RETRY, 1, origin=1, due=NOW_MS + 5, at=NOW_MS - 5)
    found = office.trace(origin=(0, 1))
    assert found.origin_missing
    assert seen(found) == [(RETRY, 0, RecordState.WAITING)]


def test_too_many_records_of_a_key_are_not_all_kept(office: Office) -> None:
    office.produce(MAX_FOUND + 5)
    found = office.trace(key=b"k")
    assert found.truncated
    assert len(found.histories) == MAX_FOUND


def test_without_a_main_topic_it_says_so(office: Office) -> None:
    office.broker.delete_topic(MAIN)
    with pytest.raises(ConfigurationError, match="there is no topic orders"):
        office.trace(key=b"k")

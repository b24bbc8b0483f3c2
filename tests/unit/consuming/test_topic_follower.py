"""A follower takes all records of a topic, in order and once, whatever happens to the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from flux.adapters.memory import MemoryAdapter, forget
from flux.consuming.topic_follower import TopicFollower
from flux.core.errors import BrokerError, Fault
from flux.core.ports import PollResult, ProducerRecord, ReaderPort, Record, TopicPartition, TransactionSettings
from flux.system import SYSTEM
from unit.support.memory_support import Kit

AWAY = BrokerError("no broker answers", Fault.UNAVAILABLE)


class Flaky:
    """The kit's cluster, whose readers fail at the polls in `failing`, counted over all readers."""

    def __init__(self, kit: Kit, failing: Sequence[int] = ()) -> None:
        self._kit = kit
        self._failing = failing
        self.polls = 0
        self.starts: list[Mapping[TopicPartition, int]] = []
        self.open = 0

    def reader(self, starts: Mapping[TopicPartition, int]) -> ReaderPort:
        self.starts.append(dict(starts))
        self._inner = self._kit.adapter.reader(starts)
        self.open += 1
        return self

    def poll(self, max_records: int, timeout: float) -> PollResult:
        self.polls += 1
        if self.polls in self._failing:
            raise AWAY
        return self._inner.poll(max_records, timeout)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._inner.seek(partition, offset)

    def close(self) -> None:
        self._inner.close()
        self.open -= 1


@pytest.fixture
def kit() -> Kit:
    made = Kit(partitions=2)
    made.broker.create_topic("t", 2)
    return made


@pytest.fixture
def taken() -> list[bytes | None]:
    return []


def follower(kit: Kit, taken: list[bytes | None], adapter: Any = None) -> TopicFollower:
    def take(records: Sequence[Record]) -> None:
        taken.extend(record.value() for record in records)

    return TopicFollower(adapter or kit.adapter, kit.admin, "t", take, kit.system)


def run(kit: Kit, following: TopicFollower, seconds: float) -> None:
    """The follower's thread is this one until that time has passed."""
    following.start()
    kit.system.after(seconds, lambda: following.close(0))
    kit.system.run_spawned()


def test_it_takes_what_is_there_and_what_comes(kit: Kit, taken: list[bytes | None]) -> None:
    kit.write(b"1", b"2")
    kit.system.after(5, lambda: kit.write(b"3"))
    run(kit, follower(kit, taken), 10)
    assert sorted(filter(None, taken)) == [b"1", b"2", b"3"]


def test_after_a_failure_it_goes_on_behind_the_last_record(
    kit: Kit, taken: list[bytes | None], caplog: pytest.LogCaptureFixture
) -> None:
    kit.write(b"1", b"2")
    kit.system.after(30, lambda: kit.write(b"3"))
    flaky = Flaky(kit, failing=[6, 7, 8])
    following = follower(kit, taken, flaky)
    run(kit, following, 90)
    assert sorted(filter(None, taken)) == [b"1", b"2", b"3"]
    assert following.failure is None
    assert flaky.open == 0
    assert len(flaky.starts) == 4
    assert caplog.text.count("cannot follow topic t, tries again: no broker answers") == 1


def test_a_topic_that_does_not_exist_yet_is_followed_when_it_does(taken: list[bytes | None]) -> None:
    kit = Kit(auto_create=False)
    following = follower(kit, taken)
    failures: list[BrokerError | None] = []
    kit.system.after(3, lambda: failures.append(following.failure))
    kit.system.after(5, lambda: kit.broker.create_topic("t"))
    kit.system.after(6, lambda: kit.write(b"1"))
    run(kit, following, 60)
    assert taken == [b"1"]
    assert failures[0] is not None
    assert failures[0].fault is Fault.UNKNOWN_TOPIC
    assert following.failure is None


def test_partitions_that_are_added_are_followed(kit: Kit, taken: list[bytes | None]) -> None:
    kit.write(b"1")
    kit.system.after(5, lambda: kit.broker.grow_topic("t", 3))
    flaky = Flaky(kit)
    run(kit, follower(kit, taken, flaky), 200)
    assert taken == [b"1"]
    assert [len(starts) for starts in flaky.starts] == [2, 3]
    assert flaky.open == 0


def test_records_deleted_before_they_were_read_do_not_stop_it(kit: Kit, taken: list[bytes | None]) -> None:
    kit.write(*[ProducerRecord(b"%d" % number, partition=0) for number in range(5)])
    following = follower(kit, taken)
    kit.admin.delete_records("t", {0: 3}, 1)
    run(kit, following, 10)
    assert taken == [b"3", b"4"]


def test_records_deleted_during_an_outage_do_not_stop_it(kit: Kit, taken: list[bytes | None]) -> None:
    def write(*values: bytes) -> None:
        kit.write(*[ProducerRecord(value, partition=0) for value in values])

    def outage() -> None:
        write(b"2", b"3", b"4")
        kit.admin.delete_records("t", {0: 4}, 1)

    write(b"0", b"1")
    kit.system.after(2.2, outage)
    run(kit, follower(kit, taken, Flaky(kit, failing=[4, 5])), 60)
    assert taken == [b"0", b"1", b"4"]


def test_it_is_read_when_all_was_taken_that_the_topic_had(kit: Kit, taken: list[bytes | None]) -> None:
    kit.write(b"1", b"2", b"3")
    following = follower(kit, taken)
    assert not following.wait_until_read(1)
    run(kit, following, 10)
    assert following.wait_until_read(1)
    kit.write(b"4")
    assert not following.wait_until_read(1)


def test_an_empty_topic_is_read(kit: Kit, taken: list[bytes | None]) -> None:
    assert follower(kit, taken).wait_until_read(1)


def test_it_is_read_in_the_time_that_a_thread_needs() -> None:
    forget("followed")
    adapter = MemoryAdapter("followed", default_partitions=2)
    taken: list[bytes | None] = []
    following = TopicFollower(
        adapter, adapter.admin(), "t", lambda records: taken.extend(each.value() for each in records), SYSTEM
    )
    adapter.broker.create_topic("t", 2)
    following.start()
    try:
        for number in range(100):
            adapter.broker.write_transaction("t", [ProducerRecord(b"%d" % number)], commits=number % 3 > 0)
            assert following.wait_until_read(30)
            assert len(taken) == sum(each % 3 > 0 for each in range(number + 1))
    finally:
        following.close(30)
        forget("followed")


def test_what_is_behind_an_open_transaction_counts_if_that_matters(kit: Kit, taken: list[bytes | None]) -> None:
    client = kit.adapter.transactions(TransactionSettings("open", timeout=1000))
    client.start(1)
    client.begin()
    client.write("t", [ProducerRecord(b"1", partition=0)])
    kit.write(b"2")
    before = follower(kit, taken)
    run(kit, before, 10)
    assert before.wait_until_read(1)
    assert not before.wait_until_read(1, open_too=True)
    client.commit(1)
    after = follower(kit, taken)
    run(kit, after, 10)
    assert after.wait_until_read(1, open_too=True)

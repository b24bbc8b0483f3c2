"""Transactions of the in-memory broker: what others see of them, who ends them, and how they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flux.adapters.memory.transactions import MemoryTransactions
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    BEGINNING,
    CommittedOffset,
    InDoubt,
    ProducerRecord,
    Superseded,
    TransactionSettings,
)
from unit.support.memory_support import START, Kit, tp, values

DENIED = BrokerError("no", Fault.DENIED)
UNAVAILABLE = BrokerError("not now", Fault.UNAVAILABLE)


def begun(kit: Kit, name: str = "flux-1", **settings: Any) -> MemoryTransactions:
    transactions = started(kit, name, **settings)
    transactions.begin()
    return transactions


def started(kit: Kit, name: str = "flux-1", **settings: Any) -> MemoryTransactions:
    transactions = kit.adapter.transactions(TransactionSettings(name, **settings))
    transactions.start(1)
    return transactions


def records(*given: bytes) -> list[ProducerRecord]:
    return [ProducerRecord(value, partition=0) for value in given]


def fault_of(call: Callable[[], object]) -> Fault:
    with pytest.raises(BrokerError) as caught:
        call()
    return caught.value.fault


def test_records_and_offsets_are_visible_with_the_commit() -> None:
    kit = Kit()
    kit.write(b"work", topic="in")
    consumer, _ = kit.consumer("in")
    consumer.poll(10, 0)
    reader = kit.adapter.reader({tp(0): BEGINNING})
    transactions = begun(kit)
    transactions.write("t", records(b"a"))
    membership = consumer.membership()
    assert membership is not None
    transactions.add_offsets(membership, {tp(0, "in"): CommittedOffset(1, "m")}, 1)
    kit.write(ProducerRecord(b"plain", partition=0))
    assert values(reader.poll(10, 0)) == []
    assert kit.broker.records("t")[0].value() == b"plain"
    assert kit.broker.committed_offsets("g", "in") == {}
    transactions.commit(1)
    assert values(reader.poll(10, 0)) == [b"a", b"plain"]
    assert kit.broker.committed_offsets("g", "in") == {0: CommittedOffset(1, "m")}
    assert kit.admin.watermarks("t", 1)[0].high == 3, "the marker takes an offset"


def test_a_consumer_reaches_the_last_stable_offset_and_continues_behind_the_marker() -> None:
    kit = Kit()
    kit.write(b"before")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    transactions = begun(kit)
    transactions.write("t", records(b"a", b"b"))
    assert consumer.poll(10, 0).reached == {tp(0): 1}
    kit.system.after(3, lambda: transactions.commit(1))
    assert values(consumer.poll(10, 10)) == [b"a", b"b"]
    assert kit.system.now() - START == 3
    assert consumer.poll(10, 0).reached == {tp(0): 4}


def test_the_first_open_transaction_holds_back_the_others_records() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    reader = kit.adapter.reader({tp(0): BEGINNING})
    first, second = begun(kit, "one"), begun(kit, "two")
    first.write("t", records(b"1"))
    second.write("t", records(b"2"))
    first.write("t", records(b"3"))
    second.commit(1)
    assert values(reader.poll(10, 0)) == []
    first.commit(1)
    assert values(reader.poll(10, 0)) == [b"1", b"2", b"3"]


def test_the_end_of_a_partition_is_its_last_stable_offset() -> None:
    kit = Kit()
    kit.write(b"before")
    transactions = begun(kit)
    transactions.write("t", records(b"a"))
    consumer, listener = kit.consumer()
    listener.start = -1
    consumer.poll(10, 0)
    transactions.commit(1)
    assert values(consumer.poll(10, 0)) == [b"a"]


def test_the_next_client_of_an_id_aborts_what_the_former_left_open() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    reader = kit.adapter.reader({tp(0): BEGINNING})
    former = begun(kit)
    former.write("t", records(b"lost"))
    former.close()
    later = begun(kit)
    kit.write(b"plain")
    later.write("t", records(b"kept"))
    later.commit(1)
    assert values(reader.poll(10, 0)) == [b"plain", b"kept"]
    assert [record.value() for record in kit.broker.records("t")] == [b"plain", b"kept"]
    assert fault_of(former.begin) is Fault.FATAL


def test_a_client_is_superseded_by_the_next_one_of_its_id() -> None:
    kit = Kit()
    former = begun(kit)
    former.write("t", records(b"lost"))
    started(kit)
    with pytest.raises(Superseded):
        former.write("t", records(b"late"))
    assert fault_of(lambda: former.commit(1)) is Fault.FENCED
    other = begun(kit)
    started(kit)
    with pytest.raises(InDoubt) as caught:
        other.commit(1)
    assert (caught.value.fault, caught.value.retriable) == (Fault.FENCED, False)
    assert kit.broker.records("t") == []


def test_the_broker_aborts_a_transaction_at_its_timeout_and_wakes_readers() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    reader = kit.adapter.reader({tp(0): BEGINNING})
    consumer, _ = kit.consumer()
    consumer.poll(1, 0)
    transactions = begun(kit, timeout=5)
    transactions.write("t", records(b"lost"))
    kit.write(b"plain")
    assert values(consumer.poll(10, 60)) == [b"plain"]
    assert kit.system.now() - START == 5
    assert values(reader.poll(10, 60)) == [b"plain"]
    assert fault_of(lambda: transactions.commit(1)) is Fault.FENCED


def test_committed_offsets_wait_while_a_transaction_has_some() -> None:
    kit = Kit(partitions=2)
    kit.write(b"a", b"b")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    transactions = begun(kit)
    membership = consumer.membership()
    assert membership is not None
    transactions.add_offsets(membership, {tp(0): CommittedOffset(1)}, 1)
    assert consumer.committed([tp(1)], 1) == {tp(1): None}
    assert fault_of(lambda: consumer.committed([tp(0)], 2)) is Fault.UNAVAILABLE
    assert fault_of(lambda: kit.admin.committed_offsets("g", "t", 2)) is Fault.UNAVAILABLE
    kit.system.after(3, lambda: transactions.commit(1))
    assert consumer.committed([tp(0)], 10) == {tp(0): CommittedOffset(1)}
    assert kit.system.now() - START == 7


def test_a_transaction_that_times_out_leaves_the_committed_offset() -> None:
    kit = Kit()
    kit.write(b"a")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    transactions = begun(kit, timeout=5)
    membership = consumer.membership()
    assert membership is not None
    transactions.add_offsets(membership, {tp(0): CommittedOffset(1)}, 1)
    assert consumer.committed([tp(0)], 10) == {tp(0): None}
    assert kit.system.now() - START == 5


def test_only_a_member_of_the_present_generation_adds_offsets() -> None:
    kit = Kit(partitions=2)
    kit.write(b"a", b"b")
    consumer, listener = kit.consumer()
    assert consumer.membership() is None, "it has not joined"
    consumer.poll(10, 0)
    before = consumer.membership()
    assert before is not None
    other, _ = kit.consumer()
    other.poll(10, 0)
    assert consumer.membership() == before, "it has not taken part in the rebalance"
    consumer.poll(0, 0)
    assert listener.heard[-1] == ("revoked", [1])
    after = consumer.membership()
    assert after is not None
    assert after != before
    offsets = {tp(0): CommittedOffset(1)}
    fenced = begun(kit, "one")
    assert fault_of(lambda: fenced.add_offsets(before, offsets, 1)) is Fault.FENCED
    assert fault_of(lambda: fenced.commit(1)) is Fault.FENCED
    begun(kit, "two").add_offsets(after, offsets, 1)
    consumer.close()
    assert consumer.membership() is None
    assert fault_of(lambda: begun(kit, "three").add_offsets(after, offsets, 1)) is Fault.FENCED


def test_a_member_still_adds_offsets_while_its_partitions_are_revoked() -> None:
    kit = Kit(partitions=2)
    kit.write(ProducerRecord(b"a", partition=1))
    consumer, listener = kit.consumer()
    consumer.poll(10, 0)
    other, _ = kit.consumer()
    other.poll(0, 0)

    def drain() -> None:
        transactions, membership = begun(kit), consumer.membership()
        assert membership is not None
        transactions.add_offsets(membership, {tp(1): CommittedOffset(1)}, 1)
        transactions.commit(1)

    listener.on_revoked = drain
    consumer.poll(0, 0)
    assert listener.heard[-1] == ("revoked", [1])
    assert kit.broker.committed_offsets("g", "t") == {1: CommittedOffset(1)}


def test_an_evicted_member_adds_no_offsets() -> None:
    kit = Kit()
    kit.write(b"a")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    membership = consumer.membership()
    kit.system.sleep(301)
    assert consumer.membership() is None
    assert fault_of(lambda: begun(kit).add_offsets(membership, {tp(0): CommittedOffset(1)}, 1)) is Fault.FENCED


def test_a_refused_record_is_named_and_fails_the_commit() -> None:
    kit = Kit()
    kit.broker.create_topic("t", config={"max.message.bytes": "200"})
    transactions = begun(kit)
    refused: list[tuple[int, Fault]] = []
    transactions.write("t", records(b"small", b"x" * 300), lambda index, error: refused.append((index, error.fault)))
    assert refused == [(1, Fault.TOO_LARGE)]
    assert fault_of(lambda: transactions.commit(1)) is Fault.TOO_LARGE
    started(kit)
    assert kit.broker.records("t") == []


def test_records_for_an_unknown_topic_are_refused() -> None:
    kit = Kit(auto_create=False)
    transactions = begun(kit)
    refused: list[int] = []
    transactions.write("t", records(b"1", b"2"), lambda index, _: refused.append(index))
    assert refused == [0, 1]
    assert fault_of(lambda: transactions.commit(1)) is Fault.UNKNOWN_TOPIC


def test_offsets_that_the_broker_refuses_fail_the_transaction() -> None:
    kit = Kit()
    kit.write(b"a")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    membership = consumer.membership()
    assert membership is not None
    transactions = begun(kit)
    long = {tp(0): CommittedOffset(1, "x" * 5000)}
    assert fault_of(lambda: transactions.add_offsets(membership, long, 1)) is Fault.METADATA
    assert fault_of(lambda: transactions.commit(1)) is Fault.METADATA


def test_in_an_outage_records_are_held_and_the_commit_may_be_repeated() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    transactions = begun(kit)
    kit.broker.available = False
    transactions.write("t", records(b"a"))
    with pytest.raises(InDoubt) as caught:
        transactions.commit(2)
    assert caught.value.retriable
    assert kit.system.now() - START == 2
    kit.broker.available = True
    transactions.commit(1)
    assert [record.value() for record in kit.broker.records("t")] == [b"a"]
    transactions.begin()


def test_a_full_queue_waits_for_room_as_long_as_a_transaction_may_last() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    transactions = begun(kit, max_queue_bytes=100, timeout=5)
    kit.broker.available = False
    assert fault_of(lambda: transactions.write("t", records(b"x" * 300))) is Fault.UNAVAILABLE
    assert kit.system.now() - START == 5


@pytest.mark.parametrize("stored", [False, True])
def test_a_commit_in_doubt_is_decided_by_the_next_one(stored: bool) -> None:
    kit = Kit()
    transactions = begun(kit)
    transactions.write("t", records(b"a"))
    kit.broker.fail_transactions(
        lambda step, _: InDoubt("lost", Fault.UNAVAILABLE) if step == "commit" else None, stored=stored
    )
    for _ in range(2 - stored):
        with pytest.raises(InDoubt):
            transactions.commit(1)
    assert len(kit.broker.records("t")) == stored
    kit.broker.fail_transactions(None, stored=stored)
    transactions.commit(1)
    assert [record.value() for record in kit.broker.records("t")] == [b"a"]
    transactions.begin()


@pytest.mark.parametrize("stored", [False, True])
def test_a_client_that_broke_in_doubt_leaves_the_answer_to_the_next_one(stored: bool) -> None:
    kit = Kit()
    transactions = begun(kit)
    transactions.write("t", records(b"a"))
    kit.broker.fail_transactions(
        lambda step, _: InDoubt("lost", Fault.FATAL) if step == "commit" else None, stored=stored
    )
    for _ in range(2):
        assert fault_of(lambda: transactions.commit(1)) is Fault.FATAL
    kit.broker.fail_transactions(None, stored=stored)
    started(kit)
    assert len(kit.broker.records("t")) == stored


def test_after_doubt_a_refusal_is_in_doubt_as_well() -> None:
    kit = Kit()
    transactions = begun(kit)
    transactions.write("t", records(b"a"))
    kit.broker.available = False
    with pytest.raises(InDoubt):
        transactions.commit(1)
    kit.broker.available = True
    started(kit)
    with pytest.raises(InDoubt) as caught:
        transactions.commit(1)
    assert caught.value.fault is Fault.FENCED


@pytest.mark.parametrize("step", ["start", "begin", "write", "flush", "add_offsets", "commit"])
def test_a_refused_request_ends_the_client(step: str) -> None:
    kit = Kit()
    kit.write(b"a")
    consumer, _ = kit.consumer()
    consumer.poll(10, 0)
    membership = consumer.membership()
    transactions = kit.adapter.transactions(TransactionSettings("flux-1"))
    kit.broker.fail_transactions(lambda asked, name: DENIED if (asked, name) == (step, "flux-1") else None)

    def play() -> None:
        transactions.start(1)
        transactions.begin()
        transactions.write("t", records(b"b"))
        transactions.flush(1)
        transactions.add_offsets(membership, {tp(0): CommittedOffset(1)}, 1)
        transactions.commit(1)

    for _ in range(2):
        assert fault_of(play) is Fault.DENIED
    assert [record.value() for record in kit.broker.records("t")] == [b"a"]
    assert kit.broker.committed_offsets("g", "t") == {}


def test_a_start_that_was_not_answered_is_repeated() -> None:
    kit = Kit()
    transactions = kit.adapter.transactions(TransactionSettings("flux-1"))
    kit.broker.fail_transactions(lambda step, _: UNAVAILABLE)
    assert fault_of(lambda: transactions.start(1)) is Fault.UNAVAILABLE
    kit.broker.fail_transactions(None)
    transactions.start(1)
    transactions.begin()


def test_methods_in_a_wrong_order_are_refused() -> None:
    kit = Kit()
    transactions = kit.adapter.transactions(TransactionSettings("flux-1"))
    assert fault_of(transactions.begin) is Fault.FATAL
    transactions.start(1)
    assert fault_of(lambda: transactions.commit(1)) is Fault.FATAL
    transactions.begin()
    assert fault_of(transactions.begin) is Fault.FATAL


def test_records_that_retention_deletes_do_not_hold_up_the_transaction() -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    consumer, _ = kit.consumer()
    consumer.poll(1, 0)
    transactions = begun(kit)
    transactions.write("t", records(b"a", b"b"))
    kit.broker.delete_records(tp(0), 2)
    assert consumer.poll(1, 0).out_of_range == [tp(0)]
    consumer.seek(tp(0), 2)
    assert not consumer.poll(1, 0).batches
    started(kit)
    kit.write(b"c")
    assert values(consumer.poll(10, 0)) == [b"c"]


def test_partitions_are_counted() -> None:
    kit = Kit(partitions=3)
    assert started(kit).partitions("t", 1) == 3


@pytest.mark.parametrize("commits", [True, False])
def test_a_marker_counts_in_the_time_index_as_kafkas_does(commits: bool) -> None:
    kit = Kit()
    kit.broker.create_topic("t")
    transactions = begun(kit)
    transactions.write("t", records(b"a"))
    if commits:
        transactions.commit(1)
    else:
        started(kit)  # ends it
    kit.write(b"b")
    for low in (1, 2):
        kit.broker.delete_records(tp(0), low)
        assert kit.adapter.admin().offsets_at("t", int(START * 1000), 1) == {0: low}

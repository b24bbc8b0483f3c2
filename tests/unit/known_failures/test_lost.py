"""How libraries like this one lose records, each with the test that flux does not.

Where a behaviour is held by another file, this table says so ("job" being tests/integration/job).

| what peers do | test |
|---|---|
| commit although the write of the retry or dead letter failed | here: test_the_position_waits… |
| never hear of a write that failed, or of an acknowledgement that got lost | here: test_a_lost_acknowledgement… |
| close with writes left over and go on as if there were none | here: test_a_stop_in_an_outage… |
| drop dead letters beyond some number | here: test_dead_letters_know_no_number… |
| retry into the topic that the record came from | test_stage.py: test_a_forward_that_leads_to_itself_is_refused |
| commit a call that was cancelled or abandoned by a stop | job/test_stop.py: test_a_call_that_outlives… |
| commit while what the call produced is still in a buffer | here: test_what_a_call_produced…; job/test_produced.py |
| drop the key or headers, or overwrite the origin | job/test_main_job.py; here: test_the_origin_is_the_first… |
| ignore a wait of more than a day | test_peers_held.py: test_a_wait_of_days… |
| count attempts per partition or process, not per record | test_peers_repeated.py: test_a_success_elsewhere… |
| take offsets for numbers without gaps | test_peers_repeated.py: test_gaps… |
| close the consumer before calls and commits have ended | test_peers_repeated.py: test_a_stop_works_no_more… |
| leave a partition paused after it came back | test_engine_retries.py: test_a_pause_is_not_remembered… |
| take in more than memory holds | test_engine_retries.py: test_a_full_stage…, test_waiting_is_bounded… |
| stop polling for one bad record | test_peers_held.py: test_a_record_that_is_refused… |
| put all records without a key in one lane | job/test_order.py: test_a_failed_record_without_a_key… |
| try again at once, in a hot loop | test_peers_held.py: test_a_refused_forward_is_tried… |
| round waits up to a poll interval, or draw them anew | job/test_retries.py; test_peers_held.py: test_a_random_wait… |
| stall, or end, at a timestamp of the future | test_peers_held.py: test_a_timestamp…; job/test_bad_input.py |
| let headers pile up from hop to hop | job/test_bad_input.py: test_headers_do_not_pile_up… |
| skip what is in a new partition, where groups start at latest | test_starts.py; here: test_a_partition… |
| believe attempt and wait headers on the main topic | job/test_bad_input.py: test_flux_headers_on_the_main_topic… |
"""

from __future__ import annotations

import threading

import pytest

import flux
from flux.core.errors import BrokerError
from flux.core.ports import ProducerRecord
from unit.support.peers_support import AWAY, DENIED, Peer, wait_for


def failing(message: flux.Message) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("error", [AWAY, DENIED], ids=["the cluster is away", "it is refused"])
@pytest.mark.parametrize("target", ["t-g-try-1", "t-g-dlq"])
def test_the_position_waits_for_the_write_of_the_next_forward(error: BrokerError, target: str) -> None:
    peer = Peer()
    tried: list[bytes | None] = []

    def refuse(topic: str, partition: int, record: ProducerRecord) -> BrokerError | None:
        if topic == target:
            tried.append(record.value)
            return error
        return None

    def call(message: flux.Message) -> None:
        raise ValueError if target == "t-g-try-1" else flux.Reject()

    task = peer.task(call)
    peer.broker.fail_writes(refuse)
    peer.write(ProducerRecord(b"v", b"k"))
    with peer.working(task):
        wait_for(lambda: len(tried) >= 3, "it is tried again")
        assert peer.position() == 0
        peer.broker.fail_writes(None)
        wait_for(lambda: peer.position() == 1, "the commit")
        assert peer.values(target) == [b"v"]


def test_a_lost_acknowledgement_costs_a_duplicate_and_never_a_record() -> None:
    peer = Peer()
    lost: list[bytes | None] = []

    def lose(topic: str, partition: int, record: ProducerRecord) -> BrokerError | None:
        if topic == "t-g-try-1" and not lost:
            lost.append(record.value)
            return AWAY
        return None

    task = peer.task(failing)
    peer.broker.fail_writes(lose, stored=True)
    peer.write(b"v")
    with peer.working(task, stages="0"):
        wait_for(lambda: peer.position() == 1, "the commit")
    assert peer.values("t-g-try-1") == [b"v", b"v"]


def test_a_stop_in_an_outage_commits_nothing_that_was_not_written() -> None:
    peer = Peer()
    calls: list[bytes] = []

    def call(message: flux.Message) -> None:
        calls.append(message.value)
        if message.value == b"bad":
            raise ValueError

    task = peer.task(call, shutdown_timeout=3)
    peer.broker.fail_writes(lambda topic, partition, record: AWAY)
    with peer.working(task, code=3, stages="0"):
        peer.broker.fail_writes(None)
        peer.write(b"good")
        wait_for(lambda: peer.position() == 1, "it works")
        peer.broker.fail_writes(lambda topic, partition, record: AWAY if topic != "t" else None)
        peer.write(b"bad")
        wait_for(lambda: b"bad" in calls, "the call")
    assert peer.position() == 1
    peer.broker.fail_writes(None)
    with peer.working(task, stages="0"):
        wait_for(lambda: peer.position() == 2, "the commit")
    assert peer.values("t-g-try-1") == [b"bad"]
    assert calls == [b"good", b"bad", b"bad"]


def test_dead_letters_know_no_number_from_which_on_they_are_dropped() -> None:
    peer = Peer(partitions=2)

    def call(message: flux.Message) -> None:
        raise flux.Reject

    task = peer.task(call, retries=0)
    count = 12_000
    peer.write(*(ProducerRecord(b"%d" % n, partition=n % 2) for n in range(count)))
    with peer.working(task):
        wait_for(lambda: peer.position() + peer.position(partition=1) == count, "all are moved")
    assert sorted(int(value or b"") for value in peer.values("t-g-dlq")) == list(range(count))


def test_what_a_call_produced_and_its_position_do_not_part() -> None:
    peer = Peer()
    peer.broker.create_topic("results")
    release = threading.Event()

    class Results(flux.Producer):
        topic = "results"
        adapter = peer.adapter
        options = flux.ProducerOptions(flush_interval=3600)

    refused: list[str] = []

    def refuse(topic: str, partition: int, record: ProducerRecord) -> BrokerError | None:
        if topic == "t" or release.is_set():
            return None
        refused.append(topic)
        return DENIED

    def call(message: flux.Message) -> None:
        Results.produce(b"result")

    task = peer.task(call)
    peer.broker.fail_writes(refuse)
    peer.write(b"v")
    with peer.working(task):
        wait_for(lambda: refused, "its delivery failed")
        assert peer.position() == 0
        release.set()
        wait_for(lambda: peer.position("t-g-try-1", "g-1") == 1, "the retry")
    assert peer.values("t-g-try-1") == [b"v"]
    assert peer.values("results") == [b"result"]
    assert peer.position() == 1
    Results.close()


def test_the_origin_is_the_first_topic_through_all_hops() -> None:
    peer = Peer(partitions=3)
    seen: list[tuple[int, str]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.stage, message.id))
        raise ValueError

    task = peer.task(call, retries=3)
    peer.write(ProducerRecord(b"v", partition=2))
    with peer.working(task):
        wait_for(lambda: peer.values("t-g-dlq"), "the dead letter")
    assert seen == [(stage, "t/2/0") for stage in range(4)]
    [dead] = peer.broker.records("t-g-dlq")
    assert dead.partition() == 2


def test_a_partition_that_comes_under_a_group_that_starts_at_latest_is_worked_from_its_beginning() -> None:
    peer = Peer()
    seen: list[bytes] = []
    task = peer.task(lambda message: seen.append(message.value), start_from="latest")
    peer.write(b"before the group")
    with peer.working(task):
        wait_for(lambda: 0 in peer.broker.committed_offsets("g", "t"), "its beginning is committed")
    peer.broker.grow_topic("t", 3)
    peer.write(
        ProducerRecord(b"1", None, (), 1), ProducerRecord(b"2", None, (), 2)
    )  # before a worker knows of the partitions
    with peer.working(task):
        wait_for(lambda: len(seen) == 2, "the new partitions")
        peer.broker.grow_topic("t", 4)
        peer.write(ProducerRecord(b"3", None, (), 3))
        wait_for(lambda: len(seen) == 3, "the newest one")
    assert sorted(seen) == [b"1", b"2", b"3"]


def test_a_partition_that_comes_before_a_new_group_has_worked_anything_is_worked_from_its_beginning() -> None:
    peer = Peer()
    seen: list[bytes] = []
    task = peer.task(lambda message: seen.append(message.value), start_from="latest")
    peer.write(b"before the group")
    with peer.working(task):
        wait_for(lambda: 0 in peer.broker.committed_offsets("g", "t"), "its beginning is committed")
        peer.broker.grow_topic("t", 2)
        peer.write(ProducerRecord(b"1", None, (), 1))
        wait_for(lambda: seen, "the new partition")
    assert seen == [b"1"]

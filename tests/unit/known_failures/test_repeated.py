"""How libraries like this one repeat records, or work them out of order."""

from __future__ import annotations

import threading
from collections import Counter

import flux
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerRecord, TopicPartition
from unit.support.peers_support import Peer, wait_for


def test_a_success_elsewhere_changes_no_record_s_attempts() -> None:
    peer = Peer(partitions=2)
    bad: list[int] = []

    def call(message: flux.Message) -> None:
        if message.value == b"bad":
            bad.append(message.attempt)
            raise ValueError

    task = peer.task(call, retries=2)
    peer.write(ProducerRecord(b"bad", b"k", partition=0))
    with peer.working(task):
        number = 0
        while not peer.values("t-g-dlq"):
            peer.write(ProducerRecord(b"good", b"k", partition=number % 2))
            number += 1
            wait_for(lambda n=number: peer.position() + peer.position(partition=1) >= n, "the good one")  # type: ignore[misc]
            assert number < 1000
    assert bad == [1, 2, 3]
    assert peer.values("t-g-dlq") == [b"bad"]


def test_gaps_in_the_offsets_hold_no_position_back_and_repeat_nothing() -> None:
    peer = Peer()
    seen: list[bytes] = []
    task = peer.task(lambda message: seen.append(message.value))
    partition = TopicPartition("t", 0)
    for value in (b"0", b"1", b"2"):
        peer.write(value)
        peer.broker.skip_offsets(partition, 3)
    with peer.working(task):
        wait_for(lambda: peer.position() >= 9, "the commit")
    peer.write(b"3")
    with peer.working(task):
        wait_for(lambda: peer.position() >= 13, "the commit")
    assert seen == [b"0", b"1", b"2", b"3"]


def test_a_worker_is_idle_although_its_topic_ends_with_a_gap() -> None:
    peer = Peer()
    seen: list[bytes] = []
    task = peer.task(lambda message: seen.append(message.value))
    peer.write(b"0")
    peer.broker.skip_offsets(TopicPartition("t", 0), 1)
    with peer.working(task, exit_when_idle=1) as running:
        wait_for(lambda: running.ended, "it ends by itself")
    assert seen == [b"0"]


def test_a_stop_in_the_middle_of_a_rebalance_commits_all_the_same() -> None:
    """Members that keep their partitions are told of an old generation until the rebalance has ended."""
    peer = Peer()
    calls: list[int] = []
    refusals = [BrokerError("an old generation", Fault.FENCED)] * 3
    task = peer.task(lambda message: calls.append(message.offset), offset_commit_interval=3600.0)
    peer.write(b"0", b"1", b"2")
    with peer.working(task):
        wait_for(lambda: len(calls) == 3, "all are worked")
        peer.broker.fail_commits(lambda group, at, position: refusals.pop() if group == "g" and refusals else None)
    assert (refusals, peer.position()) == ([], 3)


def test_a_stop_works_no_more_records_and_commits_those_that_it_was_at() -> None:
    peer = Peer()
    begun: list[bytes] = []
    release = threading.Event()

    def call(message: flux.Message) -> None:
        begun.append(message.value)
        release.wait(60)

    task = peer.task(call, concurrency=2, shutdown_timeout=200)
    peer.write(*(ProducerRecord(b"%d" % n, b"%d" % n) for n in range(50)))
    with peer.working(task) as running:
        wait_for(lambda: len(begun) == 2, "two calls")
        running.worker.stop()
        peer.write(b"written during the stop")
        began = peer.machine.now()
        wait_for(lambda: peer.machine.now() > began + 2, "it polls on meanwhile")
        release.set()
        wait_for(lambda: running.ended, "the end")
        assert len(begun) == 2
    assert peer.position() == 2
    with peer.working(task):
        wait_for(lambda: peer.position() == 51, "the rest")
    assert Counter(begun) == Counter([b"%d" % n for n in range(50)] + [b"written during the stop"])

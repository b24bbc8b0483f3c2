"""How libraries like this one hold records up, or lose sight of them."""

from __future__ import annotations

from itertools import pairwise

import pytest

import flux
from flux.consuming.driver_threads import Watcher
from flux.core.errors import BrokerError
from flux.core.ports import ProducerRecord
from unit.support.engine_support import T0_MS, Driver
from unit.support.peers_support import DENIED, Peer, wait_for

HOUR_MS = 3_600_000


@pytest.mark.parametrize("hours", [25, 24 * 7, 24 * 29])
def test_a_wait_of_days_is_waited_for(hours: int) -> None:
    driver = Driver(stage=1)
    driver.assign(0)
    driver.poll(driver.record(0, headers=[("flux-due", str(T0_MS + hours * HOUR_MS).encode())]))
    assert driver.nothing_to_take()
    driver.now += hours * 3600 - 0.001
    assert driver.nothing_to_take()
    driver.now += 0.001
    assert driver.work_all() == [0]


def test_a_refused_forward_is_tried_again_with_growing_waits() -> None:
    peer = Peer()
    tried: list[float] = []

    def refuse(topic: str, partition: int, record: ProducerRecord) -> BrokerError | None:
        if topic == "t":
            return None
        tried.append(peer.machine.now())
        return DENIED

    def call(message: flux.Message) -> None:
        raise ValueError

    task = peer.task(call, shutdown_timeout=1)
    peer.broker.fail_writes(refuse)
    peer.write(b"v")
    with peer.working(task):
        wait_for(lambda: len(tried) >= 5, "five tries")
    gaps = [after - before for before, after in pairwise(tried)]
    assert all(gap >= least for gap, least in zip(gaps, [1, 2, 4, 8], strict=False))


def test_a_record_that_is_refused_everywhere_stops_nobody_else() -> None:
    peer = Peer(partitions=2)
    seen: list[bytes] = []

    def call(message: flux.Message) -> None:
        seen.append(message.value)
        if message.value == b"bad":
            raise ValueError

    task = peer.task(call, shutdown_timeout=1)
    peer.broker.fail_writes(lambda topic, *_: None if topic == "t" else DENIED)
    peer.write(ProducerRecord(b"bad", b"k", partition=0))
    with peer.working(task):
        wait_for(lambda: seen == [b"bad"], "the bad one")
        for number in range(40):
            peer.write(ProducerRecord(b"%d" % number, b"other", partition=number % 2))
            wait_for(lambda n=number: b"%d" % n in seen, "a later one")  # type: ignore[misc]
        wait_for(lambda: peer.position(partition=1) == 20, "the other partition commits")
    assert peer.position() == 0
    assert peer.broker.committed_offsets("g", "t")[0].metadata, "what is done above the refused one is stored"
    peer.broker.fail_writes(None)
    with peer.working(task):
        wait_for(lambda: peer.position() == 21, "all of it")
    assert seen.count(b"bad") >= 2
    assert all(seen.count(b"%d" % number) == 1 for number in range(40))


def test_a_random_wait_is_drawn_once_per_partition_and_assignment() -> None:
    peer = Peer(partitions=2)
    dues: dict[int, set[int]] = {0: set(), 1: set()}

    def call(message: flux.Message) -> None:
        raise ValueError

    task = peer.task(call, wait=None, retries=1)
    with peer.working(task, stages="0"):
        for _ in range(20):
            peer.write(*(ProducerRecord(b"v", partition=p) for p in (0, 1)))
        wait_for(lambda: len(peer.values("t-g-try-1")) == 40, "all are moved")
    assert len(peer.machine.draws) == 2
    for record in peer.broker.records("t-g-try-1"):
        due = int(dict(record.headers() or ())["flux-due"] or b"")
        dues[record.partition()].add(due - record.timestamp()[1])
    assert list(dues.values()) == [{(1 + 15 + draw * 2) * 1000} for draw in peer.machine.draws]


def test_a_timestamp_of_the_future_neither_ends_nor_stalls_anything() -> None:
    peer = Peer()
    seen: list[tuple[bytes, int]] = []
    task = peer.task(lambda message: seen.append((message.value, message.stage)))
    future = int(peer.machine.now() * 1000) + 400 * 24 * HOUR_MS
    peer.write(ProducerRecord(b"ahead", timestamp=future), b"now")
    peer.write(ProducerRecord(b"ahead", timestamp=future), b"now", topic="t-g-try-1")
    with peer.working(task, exit_when_idle=1) as running:
        wait_for(lambda: running.ended, "it ends by itself")
    assert [value for value, stage in seen if stage == 0] == [b"ahead", b"now"]
    assert sorted(value for value, stage in seen if stage == 1) == [b"ahead", b"now"]
    assert peer.position("t-g-try-1", "g-1") == 2


def test_a_stage_that_may_no_longer_be_polled_ends_the_worker_and_does_not_die_alone() -> None:
    peer = Peer()
    worker = flux.Worker(peer.task(lambda message: None), adapter=peer.adapter, system=peer.machine)
    peer.broker.fail_polls(lambda group, topic: DENIED if topic == "t-g-try-1" else None)
    assert worker.run() == 1


def test_a_thread_of_flux_that_breaks_ends_the_worker_and_does_not_die_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Watcher) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Watcher, "_live", broken)
    peer = Peer()
    worker = flux.Worker(peer.task(lambda message: None), adapter=peer.adapter, system=peer.machine)
    assert worker.run() == 1

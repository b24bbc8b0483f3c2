"""What has work and gets nowhere is named, with what it waits for."""

from __future__ import annotations

import logging
import math
import threading

import pytest

import flux
from flux.core.control.standing import Hold
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerRecord, TopicPartition, TransactionSettings
from unit.support.engine_support import AWAY, Driver
from unit.support.peers_support import Peer, wait_for


def stalled(driver: Driver, after: float) -> list[str]:
    driver.now += after
    return [stall.text for stall in driver.engine.stalled(driver.now)]


def test_a_call_that_runs_long_is_named_and_again_after_twice_the_time() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0)
    driver.poll(3, 4)
    run = driver.take()
    assert stalled(driver, 0) == []
    [first] = stalled(driver, 60)
    assert first == "t[0] has made no progress for 60 s: it waits for the call of record 3, which has run for 60 s"
    assert stalled(driver, 59) == []
    assert len(stalled(driver, 1)) == 1
    driver.work(run)
    assert stalled(driver, 600) == []


def test_a_partition_that_gets_on_is_not_named() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0)
    for offset in range(10):
        driver.poll(offset)
        driver.work(driver.take())
        assert stalled(driver, 59) == []


def test_a_partition_whose_run_gets_on_is_not_named() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0)
    driver.poll(*range(10))
    run = driver.take()
    for _ in range(9):
        run.index += 1
        driver.engine.commit(driver.now, at_once=True)
        assert stalled(driver, 59) == []
    assert len(stalled(driver, 60)) == 1


def test_a_partition_without_a_start_offset_has_nothing_to_name() -> None:
    driver = Driver(stalled_after=60.0, start_from="latest")
    driver.assign(None)
    [owner] = driver.engine._partitions.assignments.values()
    assert owner.offset_tracker is None
    assert stalled(driver, 0) + stalled(driver, 60) == []


def test_a_write_that_the_target_refuses_is_named() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0)
    driver.poll(0)
    driver.work(driver.take(), 0)
    driver.write(BrokerError("no such topic", Fault.UNKNOWN_TOPIC))
    assert stalled(driver, 0) == []
    [named] = stalled(driver, 60)
    assert (
        named
        == "t[0] has made no progress for 60 s: it waits for the write of record 0 to t-g-try-1 (kept, 1 failures)"
    )


def test_a_record_that_nobody_may_call_yet_is_named() -> None:
    driver = Driver(stalled_after=60.0, concurrency=3)
    driver.assign(0)
    driver.poll(0)
    assert stalled(driver, 0) == []
    assert stalled(driver, 60) == ["t[0] has made no progress for 60 s: it waits for a free call (concurrency = 3)"]


def test_a_retry_in_place_is_named() -> None:
    driver = Driver(stalled_after=60.0, in_place_retries=1, in_place_wait=300.0)
    driver.assign(0)
    driver.poll(7)
    driver.work_all(7)
    assert stalled(driver, 0) == []
    assert stalled(driver, 60) == [
        "t[0] has made no progress for 60 s: it waits for record 7 to be tried again in place"
    ]


def test_what_a_call_produced_is_named() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0)
    driver.poll(7)
    run = driver.take()
    driver.engine.produced(run, 0, driver.message(run, 0))
    run.index = 1
    driver.engine.finished(run, driver.now)
    assert stalled(driver, 0) == []
    assert stalled(driver, 60) == [
        "t[0] has made no progress for 60 s: it waits for the acknowledgement of what the call of record 7 produced"
    ]


def test_too_many_writes_of_other_partitions_are_named() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0, 0)
    driver.poll(7)
    driver.work_all(7)
    driver.write(AWAY)
    driver.poll(driver.record(1, partition=1))
    assert stalled(driver, 0) == []
    own, other = stalled(driver, 60)
    assert (
        own
        == "t[0] has made no progress for 60 s: it waits for the write of record 7 to t-g-try-1 (waiting, 1 failures)"
    )
    assert other == "t[1] has made no progress for 60 s: it waits for 1 writes of its stage that are under way"


def test_a_pause_is_named() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0)
    driver.poll(7)
    driver.engine.call_limits.breaker.pause(None, ConnectionError(), 600.0, 0.0, driver.now)
    assert stalled(driver, 0) == []
    assert stalled(driver, 60) == [
        "t[0] has made no progress for 60 s: it waits for the end of a pause, which began 60 s ago"
    ]


def test_a_commit_without_an_answer_is_named() -> None:
    driver = Driver(stalled_after=30.0)
    driver.assign(0)
    driver.poll(*range(3))
    driver.work_all()
    driver.now += 10
    assert driver.engine.commit(driver.now)
    driver.poll(9)
    assert stalled(driver, 0) == []
    assert stalled(driver, 30) == ["t[0] has made no progress for 30 s: it waits for a commit, since 30 s"]


def test_a_run_of_another_partition_is_not_what_it_waits_for() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0, 0)
    driver.poll(driver.record(3, partition=1))
    driver.take()
    driver.poll(7)
    assert stalled(driver, 0) == []
    [first, second] = stalled(driver, 60)
    assert "a free call" in first
    assert "the call of record 3" in second


def test_a_stall_has_its_partition_and_the_run_that_it_waits_for() -> None:
    driver = Driver(stalled_after=60.0, in_place_retries=1, in_place_wait=900.0)
    driver.assign(0, 0, 0, 0, 0)
    driver.poll(driver.record(0, partition=0))
    driver.work_all(0)  # waits in place
    driver.poll(driver.record(1, partition=1))
    produced = driver.take()
    driver.engine.produced(produced, 0, driver.message(produced, 0))
    produced.index = 1
    driver.engine.finished(produced, driver.now)
    driver.poll(driver.record(2, partition=2))
    run = driver.take()
    driver.poll(driver.record(3, partition=3))
    driver.engine.stalled(driver.now)
    stalls = driver.engine.stalled(driver.now + 60)
    partitions = [TopicPartition("t", number) for number in range(4)]
    assert [(stall.about, stall.run) for stall in stalls] == list(zip(partitions, [None, None, run, None], strict=True))


@pytest.mark.parametrize("error", [AWAY, BrokerError("no such topic", Fault.UNKNOWN_TOPIC)])
def test_a_stall_by_writes_has_its_partition(error: BrokerError) -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0, 0)
    driver.poll(7)
    driver.work_all(7)
    driver.write(error)
    driver.poll(driver.record(1, partition=1))
    driver.engine.stalled(driver.now)
    assert [stall.about for stall in driver.engine.stalled(driver.now + 60)] == [driver.p0, driver.p1]


def test_a_stall_by_a_pause_or_a_commit_has_its_partition() -> None:
    driver = Driver(stalled_after=30.0)
    driver.assign(0)
    driver.poll(0)
    driver.work_all()
    assert driver.engine.commit(driver.now + 10)
    driver.poll(1)
    driver.engine.stalled(driver.now + 10)
    assert [stall.about for stall in driver.engine.stalled(driver.now + 40)] == [driver.p0]
    driver.engine.call_limits.breaker.pause(None, ConnectionError(), 600.0, 0.0, driver.now)
    assert [stall.about for stall in driver.engine.stalled(driver.now + 70)] == [driver.p0]


def test_a_commit_that_was_started_later_than_the_stall_is_not_what_it_waits_for() -> None:
    driver = Driver(stalled_after=30.0)
    driver.assign(0)
    driver.poll(*range(3))
    driver.work_all()
    driver.poll(9)
    assert stalled(driver, 0) == []
    assert driver.engine.commit(driver.now + 10)
    assert "a free call" in stalled(driver, 30)[0]


def test_records_that_are_not_due_are_no_stall() -> None:
    driver = Driver(1, stalled_after=60.0)
    driver.assign(0)
    driver.poll(0)
    assert stalled(driver, 0) == []
    assert stalled(driver, 60) == []


def test_a_clock_set_back_begins_anew() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0)
    driver.poll(0)
    assert stalled(driver, 0) == []
    assert stalled(driver, -3600) == []
    assert stalled(driver, 59) == []
    assert len(stalled(driver, 1)) == 1


def test_the_log_shows_where_a_call_is(caplog: pytest.LogCaptureFixture) -> None:
    peer, release = Peer(), threading.Event()

    def wait_for_the_provider() -> None:
        release.wait(60)

    task = peer.task(lambda message: wait_for_the_provider(), stalled_after=3.0, retries=0)
    peer.write(ProducerRecord(b"x"))
    with caplog.at_level(logging.WARNING, "flux.worker"), peer.working(task):
        wait_for(lambda: "has made no progress" in caplog.text, "the line")
        release.set()
    assert "the call of record 0" in caplog.text
    assert "in wait_for_the_provider" in caplog.text


def test_the_log_shows_where_an_awaited_call_is(caplog: pytest.LogCaptureFixture) -> None:
    import asyncio

    peer, release = Peer(), threading.Event()

    async def wait_for_the_provider() -> None:
        while not release.is_set():
            await asyncio.sleep(0.001)

    async def handler(message: flux.Message) -> None:
        await wait_for_the_provider()

    task = peer.task(handler, stalled_after=3.0, retries=0)
    peer.write(ProducerRecord(b"x"))
    with caplog.at_level(logging.WARNING, "flux.worker"), peer.working(task):
        wait_for(lambda: "has made no progress" in caplog.text, "the line")
        release.set()
    assert "in wait_for_the_provider" in caplog.text


def test_a_poll_loop_that_stands_still_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, release = Peer(), threading.Event()
    real = peer.adapter.consumer

    def consumer(*args: object) -> object:
        client = real(*args)  # type: ignore[arg-type]
        poll = client.poll
        monkeypatch.setattr(client, "poll", lambda *given: (release.wait(60), poll(*given))[1], raising=False)
        return client

    monkeypatch.setattr(peer.adapter, "consumer", consumer)
    task = peer.task(lambda message: None, stalled_after=3.0, retries=0)
    with caplog.at_level(logging.WARNING, "flux.worker"), peer.working(task):
        wait_for(lambda: "its poll loop has made no progress" in caplog.text, "the line")
        release.set()


def test_records_that_do_not_arrive_are_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer()
    task = peer.task(lambda message: None, stalled_after=3.0, retries=0)
    monkeypatch.setattr("flux.adapters.memory.log.Log.read", lambda *_: [])
    monkeypatch.setattr(
        "flux.core.engine.partitions.Partitions.read_offsets", lambda self: dict.fromkeys(self.assignments, 0)
    )
    peer.write(ProducerRecord(b"x"))
    with caplog.at_level(logging.WARNING, "flux.worker"), peer.working(task):
        wait_for(lambda: "it waits for a fetch" in caplog.text, "the line")
    assert "t[0] has had no records for 3 s" in caplog.text


def test_an_open_transaction_that_holds_records_back_is_named(caplog: pytest.LogCaptureFixture) -> None:
    peer, called = Peer(), threading.Event()
    task = peer.task(lambda message: called.set(), stalled_after=1.0, retries=0)
    peer.write(ProducerRecord(b"x"))
    foreign = peer.adapter.transactions(TransactionSettings("foreign"))
    foreign.start(5)
    foreign.begin()
    foreign.write(task.topic, [ProducerRecord(b"held back", partition=0)])
    with caplog.at_level(logging.WARNING, "flux.worker"), peer.working(task):
        wait_for(lambda: "an open transaction holds back" in caplog.text, "the line")
    foreign.close()
    assert called.is_set()
    assert "t[0]@1: an open transaction" in caplog.text
    assert "it waits for a fetch" not in caplog.text


def test_a_pause_by_somebody_is_named_with_who_did_it() -> None:
    driver = Driver(stalled_after=60.0)
    driver.assign(0)
    driver.poll(0)
    driver.engine.call_limits.held[0] = Hold("ada@ops", "", 0.0, math.inf)
    stalled(driver, 0)
    assert stalled(driver, 60) == [
        "t[0] has made no progress for 60 s: it waits for flux resume, as ada@ops has paused it"
    ]

"""Who stands still is named, and who goes on is not; another thread takes over where it may."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

import flux
from flux.core.monitoring.duties import CHECK_INTERVAL, PATIENCE, Duties, Duty
from flux.core.ports import ProducerRecord, ProducerSettings
from flux.core.producing.buffer import Limits
from flux.producing.registry import ProducerRegistry
from unit.support.memory_support import START
from unit.support.peers_support import FastMachine, Peer, wait_for

ME = 7


class Looks:
    def __init__(self, *duties: Duty) -> None:
        self.duties, self.now = Duties(), START
        for duty in duties:
            self.duties.add(duty)

    def after(self, seconds: float, gap: float = CHECK_INTERVAL) -> list[tuple[str, int, bool]]:
        """What is named in so many seconds: the name, the seconds that it has stood for, whether for the first time."""
        named = []
        until = self.now + seconds
        while self.now < until:
            self.now += gap
            named += [(each.duty.name, round(each.seconds), each.first) for each in self.duties.checked(self.now)]
        return named


def test_a_duty_that_takes_no_step_for_long_is_named_and_again_after_twice_the_time() -> None:
    duty = Duty("polling")
    looks = Looks(duty)
    duty.step(ME)
    looks.after(CHECK_INTERVAL)
    assert looks.after(PATIENCE - CHECK_INTERVAL) == []
    assert looks.after(CHECK_INTERVAL) == [("polling", PATIENCE, True)]
    assert looks.after(PATIENCE - CHECK_INTERVAL) == []
    assert looks.after(CHECK_INTERVAL) == [("polling", 2 * PATIENCE, False)]


@pytest.mark.parametrize("gap", [0.5, 5.0])
def test_it_is_named_whatever_the_time_between_two_looks(gap: float) -> None:
    duty = Duty("polling")
    looks = Looks(duty)
    duty.step(ME)
    looks.after(gap, gap)
    looks.after(PATIENCE / 2, gap)
    looks.duties.checked(looks.now)  # twice at the same time
    assert looks.after(PATIENCE / 2, gap) == [("polling", PATIENCE, True)]


def test_one_that_is_added_later_has_as_much_time() -> None:
    looks, duty = Looks(), Duty("polling")
    looks.after(3)
    duty.step(ME)
    looks.duties.add(duty)
    assert looks.after(PATIENCE) == []
    assert looks.after(CHECK_INTERVAL) == [("polling", PATIENCE, True)]


def test_a_duty_has_its_thread_and_the_number_of_its_steps() -> None:
    duty = Duty("polling")
    assert (duty.thread, duty.steps, duty.busy, duty.ended) == (0, 0, False, False)
    duty.step(ME)
    duty.step(ME + 1)
    assert (duty.thread, duty.steps, duty.busy) == (ME + 1, 2, True)
    duty.end()
    assert (duty.busy, duty.ended) == (False, True)


def test_it_is_named_within_thirty_seconds() -> None:
    duty = Duty("polling")
    looks = Looks(duty)
    looks.after(3)
    duty.step(ME)
    assert looks.after(30) == [("polling", PATIENCE, True)]


def test_who_goes_on_or_has_nothing_to_do_or_is_gone_is_not_named() -> None:
    goes, rests, gone = Duty("goes"), Duty("rests"), Duty("gone")
    looks = Looks(goes, rests, gone)
    assert len(looks.duties) == 3
    for each in (goes, rests, gone):
        each.step(ME)
    rests.rest()
    gone.end()
    for _ in range(100):
        assert looks.after(PATIENCE / 2) == []
        goes.step(ME)
    assert len(looks.duties) == 2


def test_who_goes_on_after_it_was_named_begins_anew() -> None:
    duty = Duty("polling")
    looks = Looks(duty)
    duty.step(ME)
    looks.after(2 * PATIENCE)
    duty.step(ME)
    assert looks.after(PATIENCE) == []
    assert looks.after(2 * CHECK_INTERVAL) == [("polling", PATIENCE, True)]


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_process_that_was_frozen_or_whose_clock_was_set_names_nobody(step: float) -> None:
    duty = Duty("polling")
    looks = Looks(duty)
    duty.step(ME)
    looks.after(PATIENCE / 2)
    looks.now += step
    assert looks.after(PATIENCE) == []
    assert looks.after(2 * CHECK_INTERVAL) == [("polling", PATIENCE, True)]


def test_one_that_takes_no_steps_of_its_own_is_asked_and_named_when_it_does_not_answer() -> None:
    duty = Duty("loop", probe=lambda: None)
    looks = Looks(duty)
    for _ in range(50):
        looks.after(CHECK_INTERVAL)
        assert looks.duties.to_probe() == [duty]
        duty.rest()  # the answer
    looks.after(CHECK_INTERVAL)
    assert looks.duties.to_probe() == [duty]
    assert looks.after(CHECK_INTERVAL) == []
    assert (looks.duties.to_probe(), duty.steps) == ([], 51)
    assert looks.after(PATIENCE) == [("loop", PATIENCE, True)]


def test_the_log_has_the_name_and_the_stack(caplog: pytest.LogCaptureFixture) -> None:
    machine, release, duty = FastMachine(), threading.Event(), Duty("something")

    def wait_for_godot() -> None:
        duty.step(threading.get_ident())
        release.wait(60)

    machine.watch(duty)
    machine.spawn("waits", wait_for_godot)
    with caplog.at_level(logging.WARNING, "flux.watchdog"):
        wait_for(lambda: "something has made no progress for 2" in caplog.text, "the line")
    release.set()
    duty.end()
    assert "in wait_for_godot" in caplog.text


def test_an_event_loop_that_a_call_blocks_is_named_with_the_stack(caplog: pytest.LogCaptureFixture) -> None:
    peer, release = Peer(), threading.Event()

    def block_the_loop() -> None:
        release.wait(60)

    async def handler(message: flux.Message) -> None:
        block_the_loop()

    task = peer.task(handler, retries=0)
    peer.write(ProducerRecord(b"x"))
    with caplog.at_level(logging.WARNING, "flux.watchdog"), peer.working(task):
        wait_for(lambda: "event loop of the worker has made no progress" in caplog.text, "the line")
        release.set()
    assert "in block_the_loop" in caplog.text


@pytest.mark.parametrize("awaited", [False, True])
def test_a_poller_that_stands_still_in_a_write_leaves_its_place_to_another_thread(
    awaited: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, release, stuck = Peer(), threading.Event(), threading.Event()
    make, writers = peer.adapter.producer, list[threading.Thread]()

    def producer(settings: ProducerSettings) -> Any:
        client = make(settings)
        write = client.write

        def written(topic: str, *given: Any) -> int:
            if not stuck.is_set():
                writers.append(threading.current_thread())
                stuck.set()
                release.wait(60)
            return write(topic, *given)

        monkeypatch.setattr(client, "write", written, raising=False)
        return client

    called: list[bytes | None] = []

    def handle(message: flux.Message) -> None:
        called.append(message.value)
        if message.value == b"fails":
            raise ValueError

    async def handle_awaited(message: flux.Message) -> None:
        handle(message)

    monkeypatch.setattr(peer.adapter, "producer", producer)
    task = peer.task(handle_awaited if awaited else handle, retries=0, concurrency=1)
    peer.write(ProducerRecord(b"fails"))
    with caplog.at_level(logging.WARNING), peer.working(task):
        wait_for(stuck.is_set, "it stands still")
        peer.write(ProducerRecord(b"later"), ProducerRecord(b"fails"))
        wait_for(lambda: peer.values("t-g-dlq") == [b"fails"] * 2, "both are dead letters")
        assert b"later" in called
        wait_for(lambda: peer.position() == 3, "all are done")
        release.set()
        wait_for(lambda: not writers[0].is_alive(), "the thread that was replaced has ended")
    assert "t: the writing of its forwarded copies has made no progress for 2" in caplog.text
    assert ": another thread takes over, at" in caplog.text
    assert "release.wait(60)" in caplog.text


class Client:
    """Takes and acknowledges, but stands still with the first record for `stuck` until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.taken: list[str] = []

    def write(self, topic: str, records: Sequence[ProducerRecord], acknowledged: Callable[..., None]) -> int:
        self.taken.append(topic)
        if topic == "stuck":
            self.release.wait(60)
        for record in records:
            acknowledged(None, record)
        return len(records)

    def close(self, timeout: float) -> int:
        return 0


def test_a_producer_whose_flush_stands_still_holds_back_no_other(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    registry = ProducerRegistry(FastMachine())
    adapter: Any = SimpleNamespace(cluster="here", producer=lambda settings: client)
    for topic in ("stuck", "other"):
        buffer = registry.buffer(topic, adapter, topic, ProducerSettings(), Limits(10, 1000, 0.5))
        with caplog.at_level(logging.WARNING):
            buffer.put(ProducerRecord(b"x"), 1)
            wait_for(lambda topic=topic: topic in client.taken, f"{topic} is flushed")  # type: ignore[misc]
    wait_for(lambda: "the flushing of producers has made no progress for 2" in caplog.text, "the line")
    client.release.set()
    assert ": another thread takes over, at" in caplog.text
    assert "self.release.wait(60)" in caplog.text


def test_an_acknowledgement_that_stands_still_holds_back_no_other(caplog: pytest.LogCaptureFixture) -> None:
    confluent = pytest.importorskip("flux.adapters.confluent")
    release = threading.Event()
    ends: list[bytes | None] = []
    adapter = confluent.ConfluentAdapter("127.0.0.1:1", {"log_level": 0}, system=FastMachine())
    producer = adapter.producer(ProducerSettings(delivery_timeout=0.2, linger=0.0))

    def acknowledged(error: object, record: Any) -> None:
        if record.value() == b"stuck":
            release.wait(60)
        ends.append(record.value())

    with caplog.at_level(logging.WARNING, "flux.watchdog"):
        producer.write("t", [ProducerRecord(b"stuck")], acknowledged)
        wait_for(lambda: "has made no progress" in caplog.text, "the line")
        producer.write("t", [ProducerRecord(b"other")], acknowledged)
        wait_for(lambda: ends == [b"other"], "the other is acknowledged")
    release.set()
    producer.close(5)
    assert ends == [b"other", b"stuck"]
    assert "127.0.0.1:1: the serving of acknowledgements has made no progress for 2" in caplog.text

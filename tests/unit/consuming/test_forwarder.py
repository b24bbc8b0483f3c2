"""Forwarded copies are written by one thread at a time, which no stuck one can keep others from."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import pytest

from flux.consuming.coordinator import Coordinator
from flux.consuming.forwarder import Ended, ForwardWriter, Step, Wanted
from flux.core.engine.forwarding import Forward
from flux.core.engine.verdicts import Reject
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerSettings
from flux.system import OperatingSystem
from unit.support.engine_support import AWAY, Driver
from unit.support.peers_support import wait_for


class ScriptedWriter:
    """Forwards are acknowledged at once, but those that `stick`: their write returns when `release` is set."""

    def __init__(self) -> None:
        self.tried: list[int] = []
        self.stick: set[int] = set()
        self.release = threading.Event()
        self.renewed = 0

    def write(self, forwards: Iterable[Forward], limit: object, ended: Ended, wanted: Wanted, step: Step) -> None:
        for forward in forwards:
            step()
            if not wanted(forward):
                continue
            offset = forward.entry.offset
            self.tried.append(offset)
            if offset in self.stick:
                self.stick.discard(offset)
                assert self.release.wait(60)
            ended(forward, None)

    def renew(self) -> None:
        self.renewed += 1


class Bench:
    def __init__(self, *offsets: int) -> None:
        self.driver = Driver()
        self.driver.assign(0)
        self.driver.poll(*offsets)
        self.driver.work_all(*offsets)
        self.writer = ScriptedWriter()
        self.coordinator = Coordinator(
            self.driver.policy, [self.driver.engine], cast(Any, self.writer), OperatingSystem()
        )
        [self.runtime] = self.coordinator.runtimes

    def write(self) -> threading.Thread:
        thread = threading.Thread(target=self.coordinator.procedures.write, args=(self.runtime,), daemon=True)
        thread.start()
        return thread

    def stuck(self, *offsets: int) -> threading.Thread:
        """A thread that stands still in the write of the first of them."""
        self.writer.stick.update(offsets)
        thread = self.write()
        wait_for(lambda: self.writer.tried[-1:] == [offsets[0]], "it is being written")
        return thread

    def taken_over(self) -> None:
        duty = self.runtime.forwarding.duty
        assert duty.take_over is not None
        assert duty.busy
        assert duty.take_over()


def test_what_one_thread_cannot_write_another_does_with_another_client() -> None:
    bench = Bench(0, 1, 2)
    thread = bench.stuck(1)
    bench.coordinator.procedures.write(bench.runtime)
    assert bench.writer.tried == [0, 1], "one at a time"
    bench.taken_over()
    wait_for(lambda: not bench.runtime.forwarding.duty.busy, "it has ended")
    assert bench.writer.tried == [0, 1], "nobody knows which are written"
    assert bench.writer.renewed == 1
    later = time.monotonic() + 60
    bench.coordinator.system.monotonic = lambda: later  # type: ignore[method-assign]
    bench.coordinator.procedures.write(bench.runtime)
    assert bench.writer.tried == [0, 1, 1, 2]
    assert not bench.driver.engine.open_forwards
    bench.writer.release.set()
    thread.join(60)
    assert not thread.is_alive()
    assert not bench.runtime.forwarding.ends, "its end counted once"
    assert bench.writer.tried == [0, 1, 1, 2]


def test_one_that_went_on_meanwhile_is_not_taken_over() -> None:
    bench = Bench(0, 1)
    thread = bench.stuck(0, 1)
    with bench.coordinator.lock:
        bench.taken_over()
        bench.writer.release.set()
        wait_for(lambda: bench.writer.tried == [0, 1], "it has gone on")
    thread.join(60)
    assert not bench.driver.engine.open_forwards
    assert bench.writer.tried == [0, 1]
    assert bench.writer.renewed == 0


def test_who_polls_is_told_that_a_thread_is_not_to_be_waited_for() -> None:
    bench = Bench(0)
    freed: list[int] = []
    bench.coordinator.driver.freed = freed.append
    thread = bench.stuck(0)
    bench.taken_over()
    wait_for(lambda: freed == [thread.ident], "it is told")
    bench.writer.release.set()
    thread.join(60)


class Away:
    """Adapter and producer of a cluster that is away."""

    def __init__(self) -> None:
        self.asked = 0

    def producer(self, settings: ProducerSettings) -> Away:
        return self

    def partitions(self, topic: str, timeout: float) -> int:
        self.asked += 1
        raise AWAY


def test_a_cluster_that_is_away_is_asked_once_and_not_for_each() -> None:
    driver, away = Driver(), Away()
    driver.assign(0)
    driver.poll(*range(100))
    run = driver.take()
    for index in range(100):  # to two topics
        driver.fail(run, Reject() if index % 2 else ValueError())
        run.index += 1
    driver.engine.finished(run, driver.now)
    writer = ForwardWriter(cast(Any, away), ProducerSettings(), OperatingSystem())
    coordinator = Coordinator(driver.policy, [driver.engine], writer, OperatingSystem())
    coordinator.procedures.write(coordinator.runtimes[0])
    assert away.asked == 1
    assert driver.engine.open_forwards == 100


def test_a_bug_while_writing_does_not_keep_the_next_from_it() -> None:
    bench = Bench(0, 1)
    real, failures = bench.writer.write, [LookupError()]

    def write(*given: Any) -> None:
        if failures:
            raise failures.pop()
        real(*given)

    bench.writer.write = write  # type: ignore[method-assign, assignment]
    with pytest.raises(LookupError):
        bench.coordinator.procedures.write(bench.runtime)
    bench.coordinator.procedures.write(bench.runtime)
    assert bench.writer.tried == []
    later = time.monotonic() + 60
    bench.coordinator.system.monotonic = lambda: later  # type: ignore[method-assign]
    bench.coordinator.procedures.write(bench.runtime)
    assert bench.writer.tried == [0, 1]


class Producers:
    """An adapter whose producers are counted. `meanwhile`: what another thread does while the next one is made."""

    def __init__(self) -> None:
        self.made: list[FatalProducer] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def producer(self, settings: ProducerSettings) -> FatalProducer:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        self.made.append(FatalProducer())
        return self.made[-1]


class FatalProducer:
    def __init__(self) -> None:
        self.is_closed = False
        self.meanwhile: Callable[[], object] = lambda: None

    def partitions(self, topic: str, timeout: float) -> int:
        return 1

    def write(self, *_: object) -> int:
        self.meanwhile()
        raise BrokerError("the client cannot go on", Fault.FATAL)

    def close(self, timeout: float) -> int:
        self.is_closed = True
        return 0


def test_two_threads_that_open_the_writer_at_once_use_one_client() -> None:
    producers: Any = Producers()
    writer = ForwardWriter(producers, ProducerSettings(delivery_timeout=1), OperatingSystem())
    producers.meanwhile = partial(writer.warm_up, [])
    writer.warm_up([])
    assert [each.is_closed for each in producers.made] == [False, True]
    writer.close(1)
    assert [each.is_closed for each in producers.made] == [True, True]


def test_a_closed_writer_makes_no_client_that_nobody_would_close() -> None:
    producers: Any = Producers()
    writer = ForwardWriter(producers, ProducerSettings(delivery_timeout=1), OperatingSystem())
    producers.meanwhile = partial(writer.close, 1)
    for _ in range(2):
        with pytest.raises(BrokerError, match="has ended"):
            writer.warm_up([])
    assert [each.is_closed for each in producers.made] == [True]


def test_a_client_that_failed_does_not_take_its_successor_with_it() -> None:
    producers: Any = Producers()
    writer = ForwardWriter(producers, ProducerSettings(delivery_timeout=1), OperatingSystem())
    writer.warm_up([])

    def another_thread_replaces_it() -> None:
        writer.renew()
        writer.warm_up([])

    producers.made[0].meanwhile = another_thread_replaces_it
    bench = Bench(0)
    coordinator = Coordinator(bench.driver.policy, [bench.driver.engine], writer, OperatingSystem())
    coordinator.procedures.write(coordinator.runtimes[0])
    assert [each.is_closed for each in producers.made] == [True, False]

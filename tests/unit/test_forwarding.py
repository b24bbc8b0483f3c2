"""Forwarded copies are written by one thread at a time, which no stuck one can keep others from."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from engine_support import AWAY, Driver
from peers_support import wait_for

from flux.core.errors import BrokerError
from flux.core.hops import Hop
from flux.runtime.desk import Desk
from flux.system import OperatingSystem

Ended = Callable[[BrokerError | None], None]


class ScriptedWriter:
    """Hops are acknowledged at once, but those that `stick`: their write returns when `release` is set."""

    def __init__(self) -> None:
        self.tried: list[int] = []
        self.stick: set[int] = set()
        self.away: set[int] = set()
        self.release = threading.Event()
        self.renewed = 0

    def write(self, hop: Hop, limit: int | None, ended: Ended) -> BrokerError | None:
        offset = hop.entry.offset
        self.tried.append(offset)
        if offset in self.stick:
            self.stick.discard(offset)
            assert self.release.wait(10)
        if offset in self.away:
            ended(AWAY)
            return AWAY
        ended(None)
        return None

    def renew(self) -> None:
        self.renewed += 1


class Bench:
    def __init__(self, *offsets: int) -> None:
        self.driver = Driver()
        self.driver.assign(0)
        self.driver.poll(*offsets)
        self.driver.work_all(*offsets)
        self.writer = ScriptedWriter()
        self.desk = Desk(self.driver.policy, [self.driver.engine], cast(Any, self.writer), OperatingSystem())
        [self.post] = self.desk.posts

    def write(self) -> threading.Thread:
        thread = threading.Thread(target=self.desk.write, args=(self.post,), daemon=True)
        thread.start()
        return thread

    def stuck(self, *offsets: int) -> threading.Thread:
        """A thread that stands still in the write of the first of them."""
        self.writer.stick.update(offsets)
        thread = self.write()
        wait_for(lambda: self.writer.tried[-1:] == [offsets[0]], "it is being written")
        return thread

    def taken_over(self) -> None:
        duty = self.post.forwarding.duty
        assert duty.take_over is not None
        assert duty.busy
        assert duty.take_over()


def test_what_one_thread_cannot_write_another_does_with_another_client() -> None:
    bench = Bench(0, 1, 2)
    thread = bench.stuck(1)
    bench.desk.write(bench.post)
    assert bench.writer.tried == [0, 1], "one at a time"
    bench.taken_over()
    wait_for(lambda: bench.writer.tried == [0, 1, 2], "the others")
    wait_for(lambda: not bench.post.forwarding.duty.busy, "it has ended")
    assert bench.writer.renewed == 1
    later = time.monotonic() + 60
    bench.desk.system.monotonic = lambda: later  # type: ignore[method-assign]
    bench.desk.write(bench.post)
    assert bench.writer.tried == [0, 1, 2, 1]
    assert not bench.driver.engine.has_hops
    bench.writer.release.set()
    thread.join(5)
    assert not thread.is_alive()
    assert not bench.post.forwarding.ends, "its end counted once"
    assert bench.writer.tried == [0, 1, 2, 1]


def test_one_that_went_on_meanwhile_is_not_taken_over() -> None:
    bench = Bench(0, 1)
    thread = bench.stuck(0, 1)
    with bench.desk.lock:
        bench.taken_over()
        bench.writer.release.set()
        wait_for(lambda: bench.writer.tried == [0, 1], "it has gone on")
    thread.join(5)
    assert not bench.driver.engine.has_hops
    assert bench.writer.tried == [0, 1]
    assert bench.writer.renewed == 0


def test_who_polls_is_told_that_a_thread_is_not_to_be_waited_for() -> None:
    bench = Bench(0)
    freed: list[int] = []
    bench.desk.freed = freed.append
    thread = bench.stuck(0)
    bench.taken_over()
    wait_for(lambda: freed == [thread.ident], "it is told")
    bench.writer.release.set()
    thread.join(5)


def test_a_cluster_that_is_away_is_asked_once_and_not_for_each() -> None:
    bench = Bench(*range(100))
    bench.writer.away = set(range(100))
    bench.desk.write(bench.post)
    assert bench.writer.tried == [0]
    assert bench.driver.engine.has_hops


def test_a_bug_while_writing_does_not_keep_the_next_from_it() -> None:
    bench = Bench(0, 1)
    real, failures = bench.writer.write, [LookupError()]

    def write(hop: Hop, limit: int | None, ended: Ended) -> BrokerError | None:
        if failures:
            raise failures.pop()
        return real(hop, limit, ended)

    bench.writer.write = write  # type: ignore[method-assign]
    with pytest.raises(LookupError):
        bench.desk.write(bench.post)
    bench.desk.write(bench.post)
    assert bench.writer.tried == [1]

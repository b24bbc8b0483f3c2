"""An exception that a signal handler raises, anywhere in the producer: each record is there or named, and none is
there twice without being named."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import flux
from flux.adapters.memory import MemoryAdapter
from flux.config import ProducerOptions
from flux.core.ports import ProducerPort, ProducerRecord, ProducerSettings
from flux.system import Lock, OperatingSystem
from unit.support.producer_support import World, world

__all__ = ["world"]

PACKAGE = str(Path(flux.__file__).parent)


class Interrupt(BaseException):
    """As KeyboardInterrupt is one."""


class Interrupting:
    """Raises once, at the `at`-th place in flux where the interpreter looks for signals: a function begins, or one in C
    has returned."""

    def __init__(self, at: int, where: str = PACKAGE) -> None:
        self.left = at
        self._where = where

    def __enter__(self) -> None:
        sys.setprofile(self._look)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(self._where):
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                raise Interrupt


class OneByOne:
    """A producer's client that can be interrupted with a part of the records taken, as real ones can."""

    def __init__(self, client: ProducerPort) -> None:
        self._client = client
        self.flush, self.close, self.partitions = client.flush, client.close, client.partitions

    def write(self, topic: str, records: Sequence[ProducerRecord], acknowledged: Callable[..., None]) -> int:
        return sum(self._client.write(topic, [record], acknowledged) for record in records)


class Taking(MemoryAdapter):
    def producer(self, settings: ProducerSettings) -> Any:
        return OneByOne(super().producer(settings))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a generator that is thrown away
@pytest.mark.parametrize("kind", [MemoryAdapter, Taking])
def test_an_interrupt_anywhere_loses_no_record(world: World, kind: type[MemoryAdapter]) -> None:
    world.adapter = kind("producing", system=world.system)
    at = 0
    fired = True
    while fired:
        at += 1
        told: list[bytes | None] = []

        class P(flux.Producer):
            topic = f"t{at}"
            adapter = world.adapter
            options = ProducerOptions(max_buffer_size=3, flush_interval=1.0, delivery_timeout=5)

            @classmethod
            def on_error(cls, error: flux.DeliveryError, told: list[bytes | None] = told) -> None:
                told += [record.value for record in error.failed]

        P.produce(b"before")
        P.flush()
        taken = [b"before"]
        interrupting = Interrupting(at)
        try:
            with interrupting:
                for number in range(5):
                    value = b"%d" % number
                    P.produce(value)
                    taken.append(value)
                P.flush()
        except Interrupt:
            pass
        fired = interrupting.left <= 0  # it is lost where the interpreter cannot raise it, as in a generator's end
        P.produce(b"after")
        taken.append(b"after")
        try:
            P.flush(1)
        except flux.DeliveryError as error:
            told += [record.value for record in error.failed]
        there = Counter(world.values(P.topic))
        where = f"interrupted at {at}"
        assert set(taken) <= {*there, *told}, f"{where}: lost {set(taken) - {*there, *told}}"
        assert {v for v, n in there.items() if n > 1} <= set(told), f"{where}: repeated {there}"
        assert there[b"after"] == 1, where
        assert at < 1000
    assert at > 200


def is_free(lock: Any) -> bool:
    """Whether another thread can have it."""
    taken: list[bool] = []

    def take() -> None:
        taken.append(lock.acquire(blocking=False))
        if taken[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(60)
    return taken == [True]


LOCKS: list[Callable[[], Any]] = [OperatingSystem().condition, Lock]


@pytest.mark.parametrize("make", LOCKS)
def test_an_interrupt_anywhere_in_a_locked_section_leaves_the_lock_free(make: Callable[[], Any]) -> None:
    """`threading.Condition` would stay locked, or be given back twice, as its methods are functions in Python."""
    lock = make()
    at, fired = 0, True
    while fired:
        at += 1
        interrupting = Interrupting(at, "")
        try:
            with interrupting, lock, lock:
                if hasattr(lock, "wait"):
                    lock.notify()
        except Interrupt:
            pass
        fired = interrupting.left <= 0
        assert is_free(lock), f"interrupted at {at}"
    assert at >= 5


def test_an_interrupt_anywhere_in_a_wait_leaves_the_lock_free_and_nobody_waiting() -> None:
    condition = OperatingSystem().condition()
    at, fired = 0, True
    while fired:
        at += 1
        interrupting = Interrupting(at, "")
        try:
            with condition, interrupting:
                condition.wait(0.0001)
        except Interrupt:
            pass
        fired = interrupting.left <= 0
        assert is_free(condition), f"interrupted at {at}"
        assert not condition._waiters, f"interrupted at {at}: it would take a wake-up that is meant for another"
    assert at > 5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such timer here")
@pytest.mark.parametrize("make", LOCKS)
def test_a_signal_at_the_edge_of_a_locked_section_leaves_the_lock_free(make: Callable[[], Any]) -> None:
    """The interpreter may run a handler between the lock's `__enter__` and the body that a `with` protects."""
    lock = make()

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(300):
            with suppress(Interrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.00003 * (1 + number % 20))
                while True:
                    with lock:
                        pass
            assert is_free(lock), f"in round {number}"
    finally:
        signal.signal(signal.SIGALRM, before)


def test_all_locks_of_flux_are_those() -> None:
    """But those of pages that refuse at once, or after a while, instead of waiting."""
    made = re.compile(r"threading\.(Lock|RLock|Condition)\(\)")
    files = {
        str(path.relative_to(PACKAGE)) for path in Path(PACKAGE).rglob("*.py") if made.search(path.read_text("utf-8"))
    }
    pages = {"web/dead_letters.py", "web/prometheus.py", "web/shared_reading.py"}
    assert files == {"system/__init__.py", *pages}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such timer here")
def test_a_signal_in_a_wait_for_a_lock_that_others_want_leaves_it_with_its_owner() -> None:
    """The interpreter may run a handler before a blocking acquire has the lock; a profile function cannot show it."""
    condition = OperatingSystem().condition()
    wanted = True

    def want() -> None:
        while wanted:
            with condition:
                condition.notify_all()

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    thread = threading.Thread(target=want, daemon=True)
    thread.start()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(500):
            with suppress(Interrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.00002 * (1 + number % 50))
                with condition:
                    while True:
                        condition.wait(0.0005)
    finally:
        signal.signal(signal.SIGALRM, before)
        wanted = False
    thread.join(60)
    assert not thread.is_alive()


def test_a_condition_wakes_one_or_all_and_times_out() -> None:
    condition = OperatingSystem().condition()
    woken: list[bool] = []

    def wait() -> None:
        with condition:
            woken.append(condition.wait(60))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(condition._waiters) < 3:
        pass
    with condition:
        condition.notify()
    while not woken:
        pass
    assert woken == [True]
    with condition:
        condition.notify_all()
        assert not condition.wait(0.001)
        assert not condition.wait(-1)
    for thread in threads:
        thread.join(60)
    assert woken == [True] * 3

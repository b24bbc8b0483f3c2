"""A real worker on the in-memory broker, on a machine whose time runs fast."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

import flux
from flux.adapters.memory import MemoryAdapter
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, Condition, ProducerRecord, ProducerSettings, Thread
from flux.system import SYSTEM, Watchdog

FASTER = 20
MOST = 0.5
"""Seconds between two looks at the clock: loops of flux look more often."""
AWAY = BrokerError("not now", Fault.UNAVAILABLE)
DENIED = BrokerError("not allowed", Fault.DENIED)

_names = itertools.count()


def wait_for(true: Callable[[], object], what: str, seconds: float = 60) -> None:
    """`seconds` of real time: how long a broken flux may keep the test."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.001)


class FastCondition(threading.Condition):
    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(None if timeout is None else timeout / FASTER)


class FastMachine:
    """Real threads; every second of theirs is 1/20 of ours. While the whole process stands still, their time does too:
    a session would be over, and a loop be taken for stuck."""

    def __init__(self) -> None:
        self._seen, self._now = time.monotonic(), time.time()
        self._looking = threading.Lock()
        self.draws: list[int] = []
        self.watch = Watchdog(self).watch

    def now(self) -> float:
        with self._looking:
            before, self._seen = self._seen, time.monotonic()
            self._now += min(self._seen - before, MOST) * FASTER
            return self._now

    def monotonic(self) -> float:
        return self.now()

    def condition(self) -> Condition:
        return FastCondition(threading.Lock())

    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        return SYSTEM.spawn(name, target)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / FASTER)

    def randint(self, low: int, high: int) -> int:
        self.draws.append(random.randint(low, high))
        return self.draws[-1]


@attrs.frozen
class Running:
    worker: flux.Worker
    thread: threading.Thread

    @property
    def ended(self) -> bool:
        return not self.thread.is_alive()


class Peer:
    """Topic `t`, group `g`, and what is on the broker."""

    def __init__(self, partitions: int = 1, machine: FastMachine | None = None) -> None:
        self.machine = machine or FastMachine()
        self.adapter = MemoryAdapter(
            f"peers-{next(_names)}", system=self.machine, default_partitions=partitions, auto_create=False
        )
        self.broker = self.adapter.broker
        self.partitions = partitions
        self._producer = self.adapter.producer(ProducerSettings())

    def task(self, handler: Callable[[flux.Message], Any], **settings: Any) -> flux.Task:
        settings = {"wait": 1.0, "retries": 1, "offset_commit_interval": 1.0} | settings
        task = flux.task(topic="t", group_id="g", **settings)(handler)
        for stage in task.policy().stages:
            self.broker.create_topic(stage.topic, self.partitions)
        return task

    def write(self, *records: ProducerRecord | bytes, topic: str = "t") -> None:
        made = [record if isinstance(record, ProducerRecord) else ProducerRecord(record) for record in records]
        errors: list[BrokerError | None] = []
        self._producer.write(topic, made, lambda error, _: errors.append(error))
        assert errors == [None] * len(made)

    def values(self, topic: str) -> list[bytes | None]:
        return [record.value() for record in self.broker.records(topic)]

    def position(self, topic: str = "t", group: str = "g", partition: int = 0) -> int:
        """The offset committed; 0 without one."""
        return self.broker.committed_offsets(group, topic).get(partition, CommittedOffset(0)).offset

    @contextmanager
    def working(self, task: type[flux.Task] | flux.Task, code: int = 0, **options: Any) -> Iterator[Running]:
        worker = flux.Worker(task, adapter=self.adapter, system=self.machine, **options)
        ends: list[Any] = []

        def run() -> None:
            try:
                ends.append(worker.run())
            except BaseException as error:
                ends.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield Running(worker, thread)
        finally:
            worker.stop()
            thread.join(60)
        assert ends == [code]

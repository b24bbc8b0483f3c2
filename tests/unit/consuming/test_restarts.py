"""A worker that has ended leaves nothing behind: a program, or the tests of one, may run many of them."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

import flux
from flux.adapters.memory import MemoryAdapter
from flux.adapters.memory.log import MemoryRecord
from flux.consuming import side_threads
from flux.core.monitoring.duties import Duty
from flux.core.ports import ProducerRecord, ProducerSettings
from flux.system import OperatingSystem

TESTS = Path(__file__).parents[2]


class Unwatched(OperatingSystem):
    """The watchdog forgets a duty a second after its end."""

    def __init__(self) -> None:
        self.watch = lambda duty: None


def ran(adapter: MemoryAdapter, awaited: bool) -> None:
    """A worker of new classes makes a call that produces and one that fails, and ends."""
    adapter.producer(ProducerSettings()).write("orders", [ProducerRecord(b"1"), ProducerRecord(b"2")], lambda *_: None)

    class Bills(flux.Producer):
        topic = "bills"

    Bills.adapter = adapter

    def work(message: flux.Message) -> None:
        if message.value == b"2":
            raise ValueError
        Bills.produce(b"bill")

    async def work_async(message: flux.Message) -> None:
        work(message)

    task = flux.task(topic="orders", group_id="billing", retries=1, wait=0)(work_async if awaited else work)
    threads = threading.enumerate()
    worker = flux.Worker(task, adapter=adapter, create_topics=True, exit_when_idle=0, system=Unwatched())
    assert worker.run() == 0
    for thread in threading.enumerate():
        if thread not in threads and thread.name not in ("flux-producers", "flux-watchdog"):  # the process's
            thread.join(60)


def living() -> Counter[str]:
    """How many objects of flux there are, and classes made of its own."""
    gc.collect()
    found: Counter[str] = Counter()
    for each in gc.get_objects():  # by identity alone: other tests have classes that cannot be hashed or compared
        kind = type(each)
        if issubclass(kind, type):
            if any(base is flux.Task or base is flux.Producer for base in type.mro(each)):
                found["classes of users"] += 1
        elif str(kind.__module__).startswith("flux.") and kind is not MemoryRecord and kind is not Duty:
            found[f"{kind.__module__}.{kind.__qualname__}"] += 1
    return found


def left(awaited: bool) -> Counter[str]:
    """What workers leave that have ended."""
    adapter = MemoryAdapter("restarts")
    adapter.broker.create_topic("orders", 2)
    adapter.broker.create_topic("bills", 2)
    side_threads._IDLE = 0.0
    for _ in range(2):  # what is made once a process
        ran(adapter, awaited)
    before = living()
    for _ in range(3):
        ran(adapter, awaited)
    return living() - before


@pytest.mark.parametrize("awaited", [False, True])
def test_workers_that_have_ended_leave_no_objects(awaited: bool) -> None:
    """In a process of its own: clients of other tests may still be ending in this one."""
    program = f"from unit.consuming.test_restarts import left; print(left({awaited}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=TESTS, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["Counter()"], done.stdout + done.stderr

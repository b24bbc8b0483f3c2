"""A live group goes over to `exactly_once`, process by process, and back."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from integration.job.support import Lab, wait_for

TASK = """
import flux

class Out(flux.Producer):
    topic = OUT

class Work(flux.Task):
    topic, group_id = TOPIC, GROUP
    exactly_once = EXACTLY_ONCE
    retries, wait, offset_commit_interval = 1, 0.2, 0.05

    def call(self, message):
        open(CALLED, "w").close()
        Out.produce(message.value)
        if message.value.startswith(b"dead") or (message.value.startswith(b"once") and message.stage == 0):
            raise ValueError
"""


@contextmanager
def traffic(lab: Lab, topic: str) -> Iterator[list[bytes]]:
    """What was written, while it goes on."""
    values: list[bytes] = []
    stopped = threading.Event()

    def write() -> None:
        while not stopped.wait(0.02):
            first = len(values)
            new = [
                b"%s%d" % (b"dead" if n % 50 == 0 else b"once" if n % 7 == 0 else b"good", n)
                for n in range(first, first + 10)
            ]
            lab.write(topic, *((value, value) for value in new))
            values.extend(new)

    thread = threading.Thread(target=write, name="traffic")
    thread.start()
    try:
        yield values
    finally:
        stopped.set()
        thread.join(60)


def test_a_live_group_switches_to_exactly_once_and_back_and_loses_nothing(lab: Lab) -> None:
    task, out = lab.task(lambda message: None, partitions=3), lab.make_topic(1)

    def start(name: str, exactly_once: bool) -> subprocess.Popen[bytes]:
        """Returns when it works, beside the one that is there."""
        called = lab.directory / name
        names = {"TOPIC": task.topic, "GROUP": task.group_id, "OUT": out, "CALLED": str(called)}
        process = lab.process(lab.load(TASK, EXACTLY_ONCE=exactly_once, **names), "Work")
        wait_for(called.exists, f"{name} works")
        return process

    def stop(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        assert process.wait(60) == 0

    with traffic(lab, task.topic) as values:
        first = start("first", False)
        exact = start("exact", True)
        stop(first)
        last = start("last", False)
        stop(exact)
    lab.settle(task)
    stop(last)
    dead = [value for value in values if value.startswith(b"dead")]
    assert {message.value() for message in lab.dead(task)} == set(dead)
    assert {message.value() for message in lab.read(out)} == set(values) - set(dead)

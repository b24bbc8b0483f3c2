"""How a child process measures itself. Standard library only: peers have environments of their own."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

MARK = "BENCHMARK "
"""Begins the line with the figures: libraries may print too."""
_LOOK = 0.01
_WARM = 0.5  # seconds after the first record in which latencies are not counted
_KEYS = 1000


class Job:
    """What one child is to do. `count` records or `seconds`, whichever ends first, are counted from the first one."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.bootstrap: str = given["bootstrap"]
        self.topic: str = given["topic"]
        self.group: str = given["group"]
        self.count: int = given["count"]
        self.seconds: float = given["seconds"]
        self.born: float = given["born"]
        """When the process was started, seconds since the epoch."""
        self.options: dict[str, Any] = given["options"]
        self.given = given
        self.directory: str = given["directory"]
        """For files, empty."""
        self._handled = threading.Event()
        self._latencies: list[int] = []
        self._began = 0

    def handler(self) -> Callable[[bytes], object]:
        """What a synchronous call does with a value, by the option `handler`."""
        kind = self.options.get("handler", "noop")
        if kind == "sleep":
            pause = self.options["pause"]
            return lambda value: time.sleep(pause)
        if kind == "stamp":
            return self.stamped
        if kind == "first":
            return self.first
        return lambda value: value

    def async_handler(self) -> Callable[[bytes], Any]:
        kind = self.options.get("handler", "noop")
        if kind == "sleep":
            pause = self.options["pause"]

            async def handle(value: bytes) -> None:
                await asyncio.sleep(pause)
        elif kind == "stamp":

            async def handle(value: bytes) -> None:
                self.stamped(value)
        else:

            async def handle(value: bytes) -> None:
                value  # noqa: B018

        return handle

    def stamped(self, value: bytes) -> None:
        """One record of the sender's has arrived. Ends the process when there are enough."""
        now, sent = time.time_ns(), int(value[1:])
        if not self._began:
            self._began = now
        if sent > self._began + _WARM * 1e9:
            self._latencies.append(now - sent)
            if len(self._latencies) == self.count:
                self.end(**spread("ms", [each / 1e6 for each in self._latencies]))

    def first(self, value: bytes) -> None:
        self.end(seconds=time.time() - self.born)

    def start_sender(self) -> None:
        """A process that writes its clock's time to the topic every `every` seconds, as long as this one lives."""
        every = str(self.options["every"])
        command = [sys.executable, "-m", "benchmarks.sender", self.bootstrap, self.topic, every, str(os.getpid())]
        subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def watch(self, done: Callable[[], int]) -> None:
        """Looks every few milliseconds how many calls are `done`, and ends the process with the figures."""
        threading.Thread(target=self._watch, args=(done,), daemon=True).start()

    def _watch(self, done: Callable[[], int]) -> None:
        meter = Meter()
        before = 0
        while True:
            now = done()
            if now and not before and now < self.count:
                before, meter = now, Meter()
            if now >= self.count or (before and meter.seconds >= self.seconds and now > before):
                self.end(**meter.figures(now - before))
            time.sleep(_LOOK)

    def end(self, **figures: float) -> NoReturn:
        """Prints the figures and ends the process at once: what its libraries would do at exit is not measured."""
        print(MARK + json.dumps({"peak_mb": peak(), **figures}), flush=True)
        os._exit(0)


class Meter:
    """Begins when it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu = time.process_time()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def figures(self, records: int) -> dict[str, float]:
        cpu = time.process_time() - self._cpu
        return {"rate": records / self.seconds, "cpu_us": cpu / records * 1e6}


def peak() -> float:
    """The most memory that this process has held, in MB."""
    try:
        # Linux's ru_maxrss begins with what the parent held when it forked.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        divisor = 1024 * 1024 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / divisor


def spread(unit: str, values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"p50_{unit}": ordered[len(ordered) // 2],
        f"p99_{unit}": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }


def compute() -> int:
    """About 0.2 ms of a core."""
    total = 0
    for number in range(6000):
        total += number * number
    return total


def key(number: int) -> bytes:
    return b"k%d" % (number % _KEYS)


VALUE = b"x" * 100

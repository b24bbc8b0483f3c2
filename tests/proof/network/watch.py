"""Measures a process from outside, before, in and after an outage."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from chaos.trial import wait_for

from proof.network.cases import Case
from proof.network.checks import Measured, Reading
from proof.network.subjects import Subject

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


_COUNTING = 0.024
"""CPU seconds that a machine needs to count as `slowness` does, for which the limits are made."""


def slowness() -> float:
    """How much longer this machine takes at the moment."""
    began, number = time.process_time(), 0
    for each in range(1_000_000):
        number += each & 7
    return (time.process_time() - began) / _COUNTING


def reading(pid: int) -> Reading:
    """Raises FileNotFoundError when there is no such process."""
    process = Path(f"/proc/{pid}")
    times = (process / "stat").read_text().rpartition(")")[2].split()
    return Reading(
        time.monotonic(),
        (int(times[11]) + int(times[12])) / _TICKS,
        len(list((process / "task").iterdir())),
        len(list((process / "fd").iterdir())),
        int((process / "statm").read_text().split()[1]) * _PAGE,
        _of_broker_threads(process),
    )


def _of_broker_threads(process: Path) -> dict[int, float]:
    """CPU seconds of librdkafka's broker threads."""
    found = {}
    for thread in (process / "task").iterdir():
        with suppress(OSError):  # it has just ended
            head, _, rest = (thread / "stat").read_text().rpartition(")")
            if head.partition("(")[2].startswith("rdk:broker"):
                times = rest.split()
                found[int(thread.name)] = (int(times[11]) + int(times[12])) / _TICKS
    return found


class Watch:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.back: float | None = None
        self._unharmed = False
        self._settled: Reading | None = None
        self._readings: list[Reading] = []
        self._lines: list[str] = []

    def now(self) -> Reading:
        """The last one when the process has ended."""
        try:
            return reading(self.subject.pid)
        except FileNotFoundError:
            return self._readings[-1]

    def begin(self) -> None:
        self._readings = [self.now()]

    def broken(self) -> None:
        self._readings.append(self.now())
        self._logged = self.subject.log.stat().st_size

    def over(self) -> None:
        self._unharmed = self.subject.works()
        self._readings.append(self.now())
        self._lines = self.subject.log.read_bytes()[self._logged :].decode(errors="replace").splitlines()

    def settle(self) -> None:
        """From now on nothing waits busily."""
        self._settled = self.now()

    def settled(self) -> bool:
        return not self.now().grown(self._readings[1])

    def measured(self, case: Case, named: Sequence[str], slowness: float) -> Measured:
        """`named`: see `Fault`."""
        begun, before, over = self._readings
        after = self.now()
        return Measured(
            over.at - before.at,
            over.share(before),
            over.brokers_share(before),
            self._lines,
            self.back,
            before,
            after,
            before.share(begun),
            case.is_total,
            case.waits_busily,
            0.0 if self._settled is None else after.brokers_share(self._settled),
            [name for name in named if ":" in name or name in self.subject.topics],
            not self.subject.alive,
            self._unharmed and (case.is_total or case.blocks),
            slowness,
        )


def wait_until_back(watches: Sequence[Watch], seconds: float) -> None:
    """Until each process works, at most so long; `Watch.back` is None for those that do not."""
    began = time.monotonic()

    def all_work() -> bool:
        for watch in watches:
            if watch.back is None and watch.subject.works():
                watch.back = time.monotonic() - began
        return all(watch.back is not None for watch in watches)

    _patiently(all_work, seconds)


def wait_until_settled(watches: Sequence[Watch], seconds: float) -> None:
    """Connections are not closed at once."""
    _patiently(lambda: all(watch.settled() for watch in watches), seconds)


def _patiently(true: Callable[[], bool], seconds: float) -> None:
    with suppress(AssertionError):  # who waits looks at what is missing
        wait_for(true, "", seconds)

"""The thread that flushes the producers of a process when they are due. It starts with the first record."""

from __future__ import annotations

import logging
import math
import threading

from flux.core.monitoring.duties import Duty
from flux.core.ports import System
from flux.producing.flusher import RETRY
from flux.producing.producer_buffer import ProducerBuffer

logger = logging.getLogger("flux.producer")


class FlushThread:
    """Thread-safe. A thread that is blocked, in a client or in a callback, is replaced: see `Duty`."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._buffers: set[ProducerBuffer] = set()
        self._wake = system.condition()
        self._woken = False
        self._wakes_at = math.inf
        self._token: object | None = None
        """Identifies the thread that flushes; None: there is none."""
        self._duty = Duty("the flushing of producers", take_over=self._replace)
        self._ended = False

    def add(self, buffer: ProducerBuffer, may_start: bool, within: float = math.inf) -> bool:
        """Flushes the buffer when it is due, at most `within` seconds from now, until it is idle. `may_start`: whether
        the thread may be started. Returns False when the interpreter starts no more threads."""
        with self._wake:
            due = buffer.flusher.due(self._system.monotonic(), within)
            self._buffers.add(buffer)
            if due < self._wakes_at:
                self._woken = True
                self._wake.notify()
            if self._token is None and may_start:
                try:
                    self._replace()
                except RuntimeError:
                    self._token = None
                    return False
                self._system.watch(self._duty)
        return True

    def buffers(self) -> set[ProducerBuffer]:
        with self._wake:
            return set(self._buffers)

    def end(self) -> None:
        """Takes no lock: in a forked child its holder does not exist."""
        self._ended = True
        self._duty.end()

    def wake(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def _replace(self) -> bool:
        """Starts another thread, for the other producers, while the current one is blocked in one of them."""
        self._token = object()
        self._system.spawn("flux-producers", self._run)
        return True

    def _run(self) -> None:
        wake, me = self._wake, self._token
        while not self._ended:
            due = self.tick()
            with wake:
                if self._ended or self._token is not me:
                    return
                self._duty.rest()
                if not self._woken:
                    self._wakes_at = math.inf if due is None else due
                    wake.wait(None if due is None else max(0.0, due - self._system.monotonic()))
                    self._wakes_at = math.inf
                self._woken = False

    def tick(self) -> float | None:
        """Flushes what is due. Returns the next time by the monotonic clock, None when nothing is buffered."""
        with self._wake:
            buffers = list(self._buffers)
        dues = []
        for buffer in buffers:
            due: float | None = self._system.monotonic() + RETRY
            self._duty.step(threading.get_ident())
            try:
                due = buffer.flusher.tick(self._system.monotonic())
            except Exception:
                logger.exception("topic %s could not be flushed", buffer.topic)
            if due is not None:
                dues.append(due)
        with self._wake:
            self._buffers -= {each for each in buffers if each.flusher.idle}
        return min(dues, default=None)

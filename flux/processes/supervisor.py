"""Runs several identical processes: starts them, forwards signals, and restarts those that die.

Children are exec'd, never forked: neither clients nor threads survive a fork. Each gets the reading end of a pipe to
which nothing is written: it closes when the supervisor ends in any way, and the child must end then too.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import attrs

from flux.consuming.supervision import RESTART
from flux.core.ports import System
from flux.system import SYSTEM
from flux.system.process_end import stop_signals_handled

logger = logging.getLogger("flux.supervisor")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a dead child is restarted; doubled each time, until one has lived for a minute."""
DEATHS, WITHIN = 5, 60.0
"""A child that exits with an error this often within so many seconds is not restarted."""
USAGE = 2
"""The exit code of a child for which a restart is pointless."""
_CHECK_INTERVAL = 0.1

Command = Callable[[int, int], list[str]]
"""(number of the child, file descriptor of its lifeline) -> its command line."""


@attrs.define(eq=False)
class _Child:
    number: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restart_at: float = 0.0
    pause: float = FIRST_PAUSE
    deaths: deque[float] = attrs.field(factory=lambda: deque(maxlen=DEATHS))
    finished: bool = False

    @property
    def name(self) -> str:
        return f"process {self.number}"


class Supervisor:
    """Run it in the main thread. It forwards the first signal that asks it to end, and the second, at which a worker
    stops at once; the third kills the children."""

    def __init__(self, command: Command, processes: int, system: System = SYSTEM) -> None:
        self._command = command
        self._children = [_Child(number) for number in range(processes)]
        self._system = system
        self._reader = self._writer = -1
        self._signals: deque[int] = deque()
        self._received = 0
        self._stopping = False
        self._code = 0

    def run(self) -> int:
        """Returns when all children have ended: 0 if each ended with 0, else the first other code; 1 for a killed
        one."""
        self._reader, self._writer = os.pipe()
        try:
            with self._handlers():
                while not all(child.finished for child in self._children):
                    self._pass_on_signals()
                    for child in self._children:
                        self._supervise(child)
                    self._system.sleep(_CHECK_INTERVAL)
        finally:
            os.close(self._writer)
            os.close(self._reader)
        return self._code

    def _supervise(self, child: _Child) -> None:
        if child.finished:
            return
        if child.process is not None:
            code = child.process.poll()
            if code is not None:
                child.process = None
                self._ended(child, code, self._system.monotonic())
        elif self._stopping:
            child.finished = True
        elif self._system.monotonic() >= child.restart_at:
            self._start(child)

    def _start(self, child: _Child) -> None:
        child.started = self._system.monotonic()
        # A process group of its own: an interrupt at the terminal reaches it once, from here.
        try:
            child.process = subprocess.Popen(
                self._command(child.number, self._reader),
                stdin=subprocess.DEVNULL,
                pass_fds=[self._reader],
                process_group=0,
            )
        except OSError as error:  # such as: no memory, too many processes
            self._died(child, 1, f"could not be started ({error})", child.started)
            return
        logger.info("%s started (pid %d)", child.name, child.process.pid)

    def _ended(self, child: _Child, code: int, now: float) -> None:
        how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if code == RESTART and not self._stopping:
            logger.info("%s ended to be started again", child.name)
            child.restart_at = now
        elif code == 0 or self._stopping:
            logger.info("%s %s", child.name, how)
            # A worker handles the first signal before it begins any work.
            was_starting = self._received <= 1 and -code in (signal.SIGTERM, signal.SIGINT)
            self._finish(child, 0 if was_starting or code == RESTART else code)
        else:
            self._died(child, code, how, now)

    def _died(self, child: _Child, code: int, how: str, now: float) -> None:
        if now - child.started > WITHIN:
            child.pause = FIRST_PAUSE
        if code >= 0:  # several records may end their process by a signal, and become dead letters one after the other
            child.deaths.append(now)
        hopeless = code >= 0 and len(child.deaths) == DEATHS and now - child.deaths[0] <= WITHIN
        if code == USAGE or hopeless:
            often = f", {DEATHS} times within {WITHIN:.0f} s" if hopeless else ""
            logger.error("%s %s%s: stopping the others", child.name, how, often)
            self._finish(child, code)
            self._stop(signal.SIGTERM)
            return
        logger.warning("%s %s: restarting in %g s", child.name, how, child.pause)
        child.restart_at = now + child.pause
        child.pause = min(2 * child.pause, LONGEST_PAUSE)

    def _finish(self, child: _Child, code: int) -> None:
        child.finished = True
        self._code = self._code or (1 if code < 0 else code)

    def _stop(self, number: int) -> None:
        self._stopping = True
        for child in self._children:
            if child.process is not None:
                child.process.send_signal(number)

    def _pass_on_signals(self) -> None:
        while self._signals:
            number = self._signals.popleft()
            self._received += 1
            if self._received == 1:
                logger.info("shutting down: waiting for running calls")
            self._stop(number if self._received < 3 else signal.SIGKILL)

    @contextmanager
    def _handlers(self) -> Iterator[None]:
        def handle(number: int, _: FrameType | None) -> None:
            self._signals.append(number)

        with stop_signals_handled(handle):
            yield


def signal_name(number: int) -> str:
    """Most real-time signals have no name of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        first, last = getattr(signal, "SIGRTMIN", 0), getattr(signal, "SIGRTMAX", 0)
        return f"SIGRTMIN+{number - first}" if first and first < number < last else f"signal {number}"

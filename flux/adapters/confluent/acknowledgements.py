"""The thread that serves a producer's acknowledgements, and lets writers wait for it.

For each acknowledgement it needs the interpreter, and a thread that writes without a pause releases that every 5 ms
only: acknowledgements would pile up, with the records that wait for them. So a thread that writes many records waits,
before the next ones, until those that have come are served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, get_ident
from typing import Any

from flux.adapters.confluent.log import logger
from flux.core.monitoring.duties import Duty
from flux.core.ports import System

_POLL = 0.1  # seconds: how long the thread may outlive the producer
_MANY = 200  # records between two waits of a writer
_STREAM = 0.02  # seconds without that many after which writers do not wait
_MOST_THREADS = 5  # all but one of which are blocked in callbacks


class Acknowledgements:
    """Thread-safe. `poll` serves what has come from the client, for so many seconds at most; `after_poll` is called
    after each. `owner`: the producer's name in the log."""

    def __init__(
        self,
        client: Any,
        poll: Callable[[Any, float], None],
        after_poll: Callable[[Any], None],
        owner: str,
        system: System,
    ) -> None:
        self._client = client
        self._poll = poll
        self._after_poll = after_poll
        self._now = system.monotonic
        self._spawn = system.spawn
        self._stopping = False
        self._written = 0  # since a writer waited
        self._streams_until = 0.0
        self._serves_writers = False  # whether the thread looks for writers that wait
        self._turns = Turns()
        self._duty = Duty(f"{owner}: the serving of acknowledgements", take_over=self._take_over)
        self._threads = 0
        self._start()
        system.watch(self._duty)

    def before_write(self, count: int) -> None:
        """Called before `count` records are written: a writer of many waits here."""
        self._written += count
        if self._written < _MANY:
            return
        self._written = 0
        if self._serves_writers:
            self._turns.wait(_STREAM)
        self._streams_until = self._now() + _STREAM

    def stop(self) -> None:
        """The thread ends after its poll."""
        self._stopping = True

    def join(self, timeout: float) -> None:
        """Waits for the thread, and releases the client."""
        self._duty.end()
        self._thread.join(timeout)
        self._client = None

    def _start(self) -> None:
        self._current = object()
        self._threads += 1
        self._thread = self._spawn("flux-acknowledgements", self._serve)

    def _take_over(self) -> bool:
        """Called when the thread is blocked in a callback: another serves the acknowledgements that come later."""
        if self._threads > _MOST_THREADS:
            return False
        self._start()
        return True

    def _serve(self) -> None:
        client, me = self._client, self._current
        while not self._stopping and self._current is me:
            self._duty.step(get_ident())
            self._serves_writers = self._now() < self._streams_until
            waiting = self._turns.begin(_STREAM / 4) if self._serves_writers else []
            try:
                self._poll(client, 0 if self._serves_writers else _POLL)
            except BaseException:  # such as a callback's sys.exit: without this thread nothing would be acknowledged
                logger.exception("serving acknowledgements failed")
            self._turns.end(waiting)
            self._after_poll(client)


class Turns:
    """Rounds of the serving thread, for which writers wait. Thread-safe, for any number of both. Times in seconds.

    Each waiting thread has its own lock, which the serving thread releases after a round that began later. A lock's
    `acquire` checks its timeout before it waits again. `SimpleQueue.get` does not in CPython 3.11 and 3.12: if another
    thread takes the item for which it was woken, it waits without end."""

    __slots__ = ("_signal", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque()
        self._signal = Lock()
        self._signal.acquire()

    def wait(self, timeout: float) -> bool:
        """Until a round has ended that began after this call; False after `timeout`."""
        turn = Lock()
        turn.acquire()
        self._waiting.append(turn)
        with suppress(RuntimeError):  # released already
            self._signal.release()
        return turn.acquire(timeout=timeout)

    def begin(self, timeout: float) -> list[Any]:
        """Begins a round when a thread waits, or after `timeout`. Returns the waiting threads, for `end`."""
        if not self._waiting:
            self._signal.acquire(timeout=timeout)
        waiting: list[Any] = []
        with suppress(IndexError):
            while True:
                waiting.append(self._waiting.popleft())
        return waiting

    def end(self, waiting: list[Any]) -> None:
        for turn in waiting:
            turn.release()

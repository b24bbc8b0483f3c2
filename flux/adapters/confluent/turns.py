"""Where threads that write many records let the one that serves acknowledgements have the interpreter.

Each that waits has a lock of its own, which the serving thread releases when it is through with a round that began
after. A lock's `acquire` looks whether its time is over before it waits again. `SimpleQueue.get` does not in CPython
3.11 and 3.12: one that was woken, and whose item another took while it waited for the interpreter, waits for ever.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from threading import Lock
from typing import Any


class Turns:
    """Thread-safe, for any number of waiting threads and of serving ones. Times in seconds."""

    __slots__ = ("_bell", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque()
        self._bell = Lock()
        self._bell.acquire()

    def wait(self, timeout: float) -> bool:
        """Until a round has ended that began after this; False: none did in `timeout`."""
        turn = Lock()
        turn.acquire()
        self._waiting.append(turn)
        with suppress(RuntimeError):  # it has been rung
            self._bell.release()
        return turn.acquire(timeout=timeout)

    def begin(self, timeout: float) -> list[Any]:
        """Begins a round, at the latest after `timeout`: gives those that wait, for `end`."""
        if not self._waiting:
            self._bell.acquire(timeout=timeout)
        waiting: list[Any] = []
        with suppress(IndexError):
            while True:
                waiting.append(self._waiting.popleft())
        return waiting

    def end(self, waiting: list[Any]) -> None:
        for turn in waiting:
            turn.release()

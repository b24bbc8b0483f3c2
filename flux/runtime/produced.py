"""What a running call has produced: its record counts as done only when all of it is acknowledged.

The driver puts a `Produced` into the context before it calls a handler. `flux.Producer` finds it there, in the call's
own context or in one inherited from it, and tells it of each record it takes and of how that record ended.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from flux.system import Lock


class Produced:
    """The records of one call. Thread-safe: acknowledgements come on the client's thread."""

    __slots__ = ("_error", "_flushes", "_lock", "_open", "_then", "touched")

    def __init__(self) -> None:
        self._lock = Lock()
        self._open = 0
        self._error: Exception | None = None
        self._flushes: set[Callable[[], None]] = set()
        self._then: Callable[[Exception | None], None] | None = None
        self.touched = False
        """Whether the call has produced anything. A plain attribute: it is read after every call."""

    def started(self, flush: Callable[[], None]) -> None:
        """One more record was taken. `flush` hands the producer's buffer to its client and does not wait."""
        with self._lock:
            self._open += 1
            self._flushes.add(flush)
            self.touched = True

    def ended(self, error: Exception | None) -> None:
        """One of them was acknowledged, or failed for good."""
        with self._lock:
            self._open -= 1
            self._error = self._error or error
            then = None
            if self._open <= 0:  # below: one that is in doubt ends twice
                then, self._then = self._then, None
        if then is not None:
            then(self._error)

    def when_done(self, then: Callable[[Exception | None], None]) -> None:
        """Flushes, and calls `then` once with the first failure or None when nothing is open any more: now, if so."""
        for flush in self._flushes:
            flush()
        with self._lock:
            if self._open > 0:
                self._then = then
                return
        then(self._error)


CURRENT: ContextVar[Produced | None] = ContextVar("flux_produced", default=None)

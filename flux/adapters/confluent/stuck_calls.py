"""Calls into librdkafka that have no time limit, and may not return for hours."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flux.adapters.confluent.closing import ended_within
from flux.core.errors import BrokerError, Fault
from flux.core.ports import System

MOST = 4
BETWEEN = 300.0
"""Seconds between two more of them, when there are `MOST` already."""


class StuckCalls:
    """Of one adapter. A call that has not returned in time goes on alone on its thread, and keeps its client, which is
    some threads and megabytes: therefore there are few of them."""

    def __init__(self, system: System) -> None:
        self._now = system.monotonic
        self._lock = system.condition()
        self._open = 0
        self._last = 0.0

    def ended_within(self, seconds: float, call: Callable[[], object]) -> bool:
        """Whether `call` has returned in time. Raises what it raises until then."""
        returned = threading.Event()
        counted = False

        def run() -> None:
            try:
                call()
            finally:
                with self._lock:
                    returned.set()
                    self._open -= counted

        in_time = ended_within(seconds, run, "flux-offsets")
        with self._lock:
            if not in_time and not returned.is_set():
                counted = True
                self._open += 1
                self._last = self._now()
        return in_time

    def require_room(self, doing: str) -> None:
        """Raises BrokerError (UNAVAILABLE) while there must not be another client whose call may not return."""
        with self._lock:
            if self._open >= MOST and self._now() - self._last < BETWEEN:
                text = f"{doing}: {self._open} requests to coordinators have not returned: retried every {BETWEEN:g} s"
                raise BrokerError(text, Fault.UNAVAILABLE)

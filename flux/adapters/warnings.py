"""What a Kafka client says, in the log: quiet, bounded, and without secrets."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flux.core.ports import System

logger = logging.getLogger("flux.kafka")

_INTERVAL = 10.0  # seconds between two warnings of one kind


class Warnings:
    """One client's. Nothing here raises."""

    def __init__(self, masked: Callable[[str], str], system: System) -> None:
        self.masked = masked
        self._now = system.monotonic
        self._next: dict[object, float] = {}
        self._silent: dict[object, int] = {}

    def warn(self, kind: object, text: str) -> None:
        """At most one line per kind and interval, the next one with the number left out."""
        now = self._now()
        if now < self._next.get(kind, now):
            self._silent[kind] = self._silent.get(kind, 0) + 1
            return
        self._next[kind] = now + _INTERVAL
        silent = self._silent.pop(kind, 0)
        logger.warning("%s%s", self.masked(text), f" ({silent} more like it)" if silent else "")

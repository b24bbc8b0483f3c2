"""What a Kafka client says, in the log: quiet, bounded, and without secrets."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from flux.core.monitoring.log_throttle import LogThrottle, and_more
from flux.core.ports import System

logger = logging.getLogger("flux.kafka")

_BROKER = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}(?=/[0-9a-z])")


class Warnings:
    """One adapter's, of all its clients: what they have in common is said once. Nothing here raises."""

    def __init__(self, masked: Callable[[str], str], system: System, throttle: LogThrottle | None = None) -> None:
        self.masked = masked
        self._now = system.monotonic
        self._throttle = throttle or LogThrottle()

    def warn(self, kind: object, text: str) -> None:
        """At most one line per kind and minute, the next one with the number left out."""
        left_out = self._throttle.admit(kind, self._now())
        if left_out is not None:
            logger.warning("%s%s", self.masked(text), and_more(left_out))

    def silent(self, broker: str, seconds: float) -> None:
        """A broker that has not answered what it was asked for so long."""
        self.warn(("broker", broker), f"{broker} has not answered for {seconds:.0f} s")


def broker_in(text: str) -> str | None:
    """HOST:PORT of the broker that librdkafka speaks of, as in "host:9092/1: Connect to …"."""
    found = _BROKER.search(text)
    return found[0] if found is not None else None

"""Warnings of Kafka clients in the log, rate-limited and without secrets."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from flux.core.monitoring.log_throttle import LogThrottle, and_more
from flux.core.ports import System

logger = logging.getLogger("flux.kafka")

_BROKER = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}(?=/[0-9a-z])")


class Warnings:
    """For all clients of an adapter together. Nothing here raises."""

    def __init__(self, masked: Callable[[str], str], system: System, throttle: LogThrottle | None = None) -> None:
        self.masked = masked
        self._now = system.monotonic
        self._throttle = throttle or LogThrottle()

    def warn(self, kind: object, text: str) -> None:
        """At most one line per kind and minute; the next one has the number left out."""
        left_out = self._throttle.admit(kind, self._now())
        if left_out is not None:
            logger.warning("%s%s", self.masked(text), and_more(left_out))

    def silent(self, broker: str, seconds: float) -> None:
        """A broker has not answered a request for so long."""
        self.warn(("broker", broker), f"{broker} has not answered for {seconds:.0f} s")


def broker_in(text: str) -> str | None:
    """HOST:PORT of the broker in librdkafka's text, as in "host:9092/1: Connect to …"; None: it names none."""
    found = _BROKER.search(text)
    return found[0] if found is not None else None

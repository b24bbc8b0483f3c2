"""How many partitions topics have, as a producer's client reports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException

_AGE = 60.0  # seconds that a count is trusted


class PartitionCounts:
    """Of one client's cluster. `now`: a monotonic clock; `answered` is called when the cluster has answered."""

    def __init__(self, now: Callable[[], float], answered: Callable[[], object]) -> None:
        self._now = now
        self._answered = answered
        self._counts: dict[str, tuple[float, int]] = {}  # topic -> until when it is trusted, partitions

    def of(self, client: Any, topic: str, timeout: float) -> int:
        """Raises KafkaException."""
        until, count = self._counts.get(topic, (0.0, 0))
        if self._now() < until:
            return count
        found = client.list_topics(topic, max(timeout, 0.001)).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        self._answered()
        self._counts[topic] = (self._now() + _AGE, len(found.partitions))
        return len(found.partitions)

    def forget(self, topic: str) -> None:
        self._counts.pop(topic, None)

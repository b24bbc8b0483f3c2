"""When the relay looks again, and what it leaves out meanwhile."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

import attrs

from flux.core.errors import BrokerError
from flux.core.outbox.sending import OF_THE_TOPIC
from flux.core.ports.outbox import Excluded, OutboxRow

Key = TypeVar("Key", bound=Hashable)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds; doubled each time, while the cluster or the database is unavailable."""
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
"""Seconds; doubled each time, for a key or a topic of which Kafka refused a row."""
MOST_KEYS = 1000
"""So many refused keys are left out one by one; beyond that their topics are left out as a whole."""


class Pauses:
    """After failures in succession."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def failed(self) -> float:
        """Seconds until the next attempt."""
        pause, self._next = self._next, min(self._next * 2, LONGEST_PAUSE)
        return pause

    def succeeded(self) -> None:
        self._next = FIRST_PAUSE


@attrs.define
class _Refusal:
    wait: float
    until: float


class Refusals:
    """What Kafka has refused, and when it is tried again. Times: seconds by the monotonic clock."""

    def __init__(self) -> None:
        self._topics: dict[str, _Refusal] = {}
        self._keys: dict[int, _Refusal] = {}

    def refused(self, row: OutboxRow, error: BrokerError, now: float) -> None:
        if error.fault in OF_THE_TOPIC or (len(self._keys) >= MOST_KEYS and row.key_hash not in self._keys):
            _again(self._topics, row.topic, now)
        else:
            _again(self._keys, row.key_hash, now)

    def unavailable(self, row: OutboxRow, now: float) -> None:
        """Its partition is unavailable, and others are not."""
        _again(self._keys, row.key_hash, now)

    def delivered(self, row: OutboxRow) -> None:
        if self._topics or self._keys:
            self._topics.pop(row.topic, None)
            self._keys.pop(row.key_hash, None)

    def excluded(self, now: float) -> Excluded:
        """What is not due. A key that has been due for long is forgotten: its row may have been deleted."""
        _forget(self._topics, now)
        _forget(self._keys, now)
        return Excluded(
            tuple(topic for topic, refusal in self._topics.items() if now < refusal.until),
            tuple(key for key, refusal in self._keys.items() if now < refusal.until),
        )


def _again(known: dict[Key, _Refusal], key: Key, now: float) -> None:
    before = known.get(key)
    if before is not None and now < before.until:
        return  # another row of the same turn
    wait = FIRST_RETRY if before is None else min(before.wait * 2, LONGEST_RETRY)
    known[key] = _Refusal(wait, now + wait)


def _forget(known: dict[Key, _Refusal], now: float) -> None:
    for key in [key for key, refusal in known.items() if now >= refusal.until + LONGEST_RETRY]:
        del known[key]

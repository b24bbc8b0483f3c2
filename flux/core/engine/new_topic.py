"""A topic that was made just now: some brokers know it, and some call it unknown for a moment."""

from __future__ import annotations

from flux.core.errors import BrokerError

SPREAD = 10.0
"""Seconds that news of a topic may take to reach every broker."""


class TopicPropagation:
    """For how long a stage goes on polling a topic that is unknown. A client may tell of it once only, so that it is
    remembered until partitions of it are assigned."""

    __slots__ = ("_error", "_since")

    def __init__(self) -> None:
        self._error: BrokerError | None = None
        self._since = 0.0

    def unknown(self, error: BrokerError, now: float) -> None:
        """A poll told so."""
        if self._error is None:
            self._since = now
        self._error = error

    def known(self) -> None:
        self._error = None

    def over(self, now: float) -> BrokerError | None:
        """What a poll told, when no broker's being late explains it any more."""
        return None if self._error is None or 0 <= now - self._since < SPREAD else self._error

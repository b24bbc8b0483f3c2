"""A new topic is unknown to some brokers for a moment: how long a stage tolerates that."""

from __future__ import annotations

from flux.core.errors import BrokerError

SPREAD = 10.0
"""Seconds until every broker should know a new topic."""


class TopicPropagation:
    """Whether a stage still tolerates that its topic is unknown. A client may report the error once only, so it is
    kept until partitions of the topic are assigned."""

    __slots__ = ("_error", "_since")

    def __init__(self) -> None:
        self._error: BrokerError | None = None
        self._since = 0.0

    def unknown(self, error: BrokerError, now: float) -> None:
        """A poll has reported that the topic is unknown."""
        if self._error is None:
            self._since = now
        self._error = error

    def known(self) -> None:
        self._error = None

    def over(self, now: float) -> BrokerError | None:
        """The reported error, if the topic has been unknown for too long to be new."""
        return None if self._error is None or 0 <= now - self._since < SPREAD else self._error

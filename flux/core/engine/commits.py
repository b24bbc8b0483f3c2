"""When offsets are committed: after an interval or a number of records, one commit in flight."""

from __future__ import annotations

from collections.abc import Mapping

from flux.core.ports import CommittedOffset, TopicPartition

_LONGEST_RETRY = 1.0
_SHORTEST_RETRY = 0.1
_LOST = 60.0  # seconds after which a commit without an answer counts as lost


class Commits:
    """Of one stage. Times in seconds by the engine's clock."""

    __slots__ = ("_at", "_failed", "_flight", "_interval", "_since", "_threshold", "done")

    def __init__(self, interval: float, threshold: int) -> None:
        self._interval = interval
        self._threshold = threshold
        self._at = 0.0
        self._flight: Mapping[TopicPartition, CommittedOffset] | None = None
        self._since = 0.0
        self._failed = False
        self.done = 0
        """Records done since the last check."""

    @property
    def open(self) -> bool:
        """Whether anything is done but not committed."""
        return bool(self.done) or self._flight is not None

    def waited(self, now: float) -> float:
        """Seconds since the commit in flight was started; 0 if there is none."""
        return 0.0 if self._flight is None else max(0.0, now - self._since)

    def soon(self, now: float) -> None:
        """Makes a commit due without waiting for the interval."""
        self.done += 1
        self._at = now

    def due(self, now: float) -> bool:
        if self._flight is not None:
            if 0 <= now - self._since < _LOST:
                return False
            self._flight = None
        if self._at - now > max(self._interval, _LONGEST_RETRY):
            self._at = now + self._interval  # the clock was set back
        return now >= self._at or (self.done >= self._threshold and not self._failed)

    def deadline(self, now: float) -> float | None:
        """When `due` becomes true without another record."""
        if not self.done or self._flight is not None:
            return None
        return min(self._at, now + max(self._interval, _LONGEST_RETRY))

    def checked(self, now: float) -> None:
        """The offsets to commit were computed: the next commit is due after the interval."""
        self.done = 0
        self._failed = False
        self._at = now + self._interval

    def began(self, offsets: Mapping[TopicPartition, CommittedOffset], now: float) -> None:
        self._flight, self._since = offsets, now

    def ended(self, succeeded: bool, now: float) -> None:
        """The commit in flight has ended. A failed one is retried within a second, but not in a hot loop."""
        self._flight = None
        if not succeeded:
            self.done += 1
            self._failed = True
            self._at = now + min(max(self._interval, _SHORTEST_RETRY), _LONGEST_RETRY)

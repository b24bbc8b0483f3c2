"""When positions are committed: by interval and by count, one commit in flight."""

from __future__ import annotations

from collections.abc import Mapping

from flux.core.ports import CommittedOffset, TopicPartition

_AGAIN = 1.0
_SOONEST = 0.1
_LOST = 60.0  # seconds after which the end of a commit is not waited for any more


class Commits:
    """Times in seconds by the clock of the engine."""

    __slots__ = ("_at", "_failed", "_flight", "_interval", "_since", "_threshold", "done")

    def __init__(self, interval: float, threshold: int) -> None:
        self._interval = interval
        self._threshold = threshold
        self._at = 0.0
        self._flight: Mapping[TopicPartition, CommittedOffset] | None = None
        self._since = 0.0
        self._failed = False
        self.done = 0
        """Records done since positions were last looked at."""

    @property
    def open(self) -> bool:
        """Whether anything is done that is not committed."""
        return bool(self.done) or self._flight is not None

    def waited(self, now: float) -> float:
        """Seconds for which the end of a commit is waited for; 0 when none is in flight."""
        return 0.0 if self._flight is None else max(0.0, now - self._since)

    def soon(self, now: float) -> None:
        """There is something that should not wait for the interval."""
        self.done += 1
        self._at = now

    def due(self, now: float) -> bool:
        if self._flight is not None:
            if 0 <= now - self._since < _LOST:
                return False
            self._flight = None
        if self._at - now > max(self._interval, _AGAIN):
            self._at = now + self._interval  # the clock was set back
        return now >= self._at or (self.done >= self._threshold and not self._failed)

    def deadline(self, now: float) -> float | None:
        """When `due` will be true by the clock alone."""
        if not self.done or self._flight is not None:
            return None
        return min(self._at, now + max(self._interval, _AGAIN))

    def looked(self, now: float) -> None:
        """Positions were computed: the next time is an interval away."""
        self.done = 0
        self._failed = False
        self._at = now + self._interval

    def began(self, positions: Mapping[TopicPartition, CommittedOffset], now: float) -> None:
        self._flight, self._since = positions, now

    def ended(self, well: bool, now: float) -> None:
        """A commit that failed is tried again within a second, but not at once: it would fail in a hot loop."""
        self._flight = None
        if not well:
            self.done += 1
            self._failed = True
            self._at = now + min(max(self._interval, _SOONEST), _AGAIN)

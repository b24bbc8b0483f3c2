"""The kit's clock, which the test moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flux.testing.machine import Machine


class Clock:
    """The kit's time, for record timestamps and due times. It stands still until the test moves it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._machine.now()

    @property
    def datetime(self) -> datetime:
        """In UTC."""
        return datetime.fromtimestamp(self._machine.now(), UTC)

    def advance(self, by: float | timedelta) -> None:
        """Moves the clock by so many seconds. The next `run` processes what is due by then. Raises ValueError."""
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        if not seconds >= 0:
            raise ValueError(f"advance({by!r}): the clock never moves back")
        self._machine.advance(seconds)

    def __repr__(self) -> str:
        return f"<Clock {self.datetime.isoformat()}>"

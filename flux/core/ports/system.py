"""The machine, as flux uses it: clock, threads, wake-ups, chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from flux.core.monitoring.duties import Duty


class Lock(Protocol):
    def __enter__(self) -> Any: ...
    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> Any: ...


class Condition(Lock, Protocol):
    """A lock with wake-ups. `wait` releases it and waits up to `timeout` seconds; returns False after that time."""

    def wait(self, timeout: float | None = None) -> bool: ...
    def notify(self, n: int = 1) -> None: ...
    def notify_all(self) -> None: ...


class Thread(Protocol):
    @property
    def name(self) -> str: ...
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...


class System(Protocol):
    """The machine for drivers and the in-memory broker; a simulation has its own."""

    def now(self) -> float:
        """Seconds since the epoch by the wall clock, which may be set back; for times that other machines read."""
        ...

    def monotonic(self) -> float:
        """Seconds by a clock that is never set back; for durations and deadlines."""
        ...

    def condition(self) -> Condition: ...
    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        """Starts a daemon thread."""
        ...

    def sleep(self, seconds: float) -> None: ...
    def randint(self, low: int, high: int) -> int:
        """Both ends included."""
        ...

    def watch(self, duty: Duty) -> None:
        """Logs the duty when it makes no progress, until it has ended."""
        ...

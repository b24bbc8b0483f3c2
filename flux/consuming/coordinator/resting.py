"""Threads that wait on a coordinator's condition for a fact, or for a run."""

from __future__ import annotations

from flux.consuming.coordinator.coordinator import Coordinator


class RestingThreads:
    """`idle`: number of threads that wait for a run."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._resting = 0
        self.idle = 0

    def rest(self, timeout: float, facts: int | None = None) -> None:
        """Waits for a fact, up to `timeout` seconds; see `flux.consuming.effects.Rest`."""
        coordinator = self._coordinator
        with coordinator.lock:
            if not coordinator.has_missed(facts):
                self._resting += 1
                coordinator.lock.wait(timeout)
                self._resting -= 1

    def idle_locked(self, timeout: float) -> None:
        """Waits for a run, up to `timeout` seconds."""
        self.idle += 1
        self._coordinator.lock.wait(timeout)
        self.idle -= 1

    def notify_locked(self) -> None:
        """There is a fact. Wakes all threads, because both kinds wait on one condition and the wrong one could wake."""
        if self._resting:
            self._coordinator.lock.notify_all()

    def wake_idle_locked(self, number: int) -> None:
        """There are runs for that many threads."""
        if self.idle:
            self._coordinator.lock.notify(number)

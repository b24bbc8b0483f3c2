"""Threads that wait on a coordinator's condition: until there is a fact, or something to do."""

from __future__ import annotations

from flux.consuming.coordinator.coordinator import Coordinator


class RestingThreads:
    """`idle`: how many wait for something to do."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._resting = 0
        self.idle = 0

    def rest(self, timeout: float, facts: int | None = None) -> None:
        """Until there is a fact, up to `timeout` seconds; see `flux.consuming.effects.Rest`."""
        coordinator = self._coordinator
        with coordinator.lock:
            if not coordinator.has_missed(facts):
                self._resting += 1
                coordinator.lock.wait(timeout)
                self._resting -= 1

    def idle_locked(self, timeout: float) -> None:
        """Until there is something to do, up to `timeout` seconds."""
        self.idle += 1
        self._coordinator.lock.wait(timeout)
        self.idle -= 1

    def tell_locked(self) -> None:
        """There is a fact. All are woken, as they wait for the same condition: one who rests must not take the turn of
        one who is idle."""
        if self._resting:
            self._coordinator.lock.notify_all()

    def call_locked(self, number: int) -> None:
        """There is something to do for so many."""
        if self.idle:
            self._coordinator.lock.notify(number)

"""Threads that rest until there is a fact."""

from __future__ import annotations

from flux.runtime.desk import Desk


class RestingThreads:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._number = 0

    def rest(self, timeout: float, facts: int | None = None) -> None:
        """Up to `timeout` seconds; see `flux.runtime.effects.Rest`."""
        desk = self._desk
        with desk.lock:
            if not desk.has_missed(facts):
                self._number += 1
                desk.lock.wait(timeout)
                self._number -= 1

    def wake_locked(self) -> None:
        if self._number:
            self._desk.lock.notify_all()

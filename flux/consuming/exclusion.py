"""Runs of all tasks of a process: many at once, or a single one with nothing beside it."""

from __future__ import annotations

from flux.system import Lock


class Exclusion:
    """`owner`s are stages. An owner that claims the process keeps others from starting runs until it releases it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._runs = 0
        self._holders: set[object] = set()
        self.owner: object | None = None

    def enter(self) -> bool:
        """A run is about to start beside others. Returns whether it may; then call `leave` at its end."""
        with self._lock:
            if self.owner is not None or self._holders:
                return False
            self._runs += 1
            return True

    def claim(self, owner: object) -> bool:
        """`owner` is about to start a run alone. Returns whether it may: no other stage has claimed the process, and
        nothing runs. Then call `leave` at its end, or at once if there is no run."""
        with self._lock:
            if self.owner is None:
                self.owner = owner
            if self.owner is not owner or self._runs or self._holders:
                return False
            self._runs += 1
            return True

    def admits(self, owner: object) -> bool:
        """Whether no other stage keeps `owner` from starting runs."""
        return not self._holders and self.owner in (None, owner)

    def hold(self, holder: object, holds: bool) -> None:
        """No run starts while somebody `holds`."""
        if holds is not (holder in self._holders):
            with self._lock:
                (self._holders.add if holds else self._holders.discard)(holder)

    def leave(self) -> None:
        with self._lock:
            self._runs -= 1

    def release(self, owner: object) -> None:
        with self._lock:
            if self.owner is owner:
                self.owner = None

"""Finds what has work and gets nowhere, so that it is named in the log and nobody has to guess."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from flux.core.assignment import Assignment


@attrs.define
class _Watch:
    changes: int
    since: float
    tell_at: float


class Watchdog:
    """Of one stage. `patience`: seconds without a record done after which a partition with work has stalled. Each is
    named again after twice the time."""

    __slots__ = ("_patience", "_watched")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._watched: dict[Assignment, _Watch] = {}

    def stalled(
        self, assignments: Iterable[Assignment], has_work: Callable[[Assignment], bool], now: float
    ) -> list[tuple[Assignment, float]]:
        """The partitions to name now, with the seconds for which they have stood still."""
        watched: dict[Assignment, _Watch] = {}
        stalled = []
        for assignment in assignments:
            changes = 0 if assignment.ledger is None else assignment.ledger.changes
            watch = self._watched.get(assignment)
            if watch is None or watch.changes != changes or now < watch.since or not has_work(assignment):
                watch = _Watch(changes, now, now + self._patience)
            elif now >= watch.tell_at:
                standing = now - watch.since
                watch.tell_at = now + standing
                stalled.append((assignment, standing))
            watched[assignment] = watch
        self._watched = watched
        return stalled

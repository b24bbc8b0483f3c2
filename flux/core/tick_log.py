"""What became of the ticks of schedules in this process: the last one of each, and how many were missed."""

from __future__ import annotations

import attrs

from flux.core.schedules import Schedule

MOST_MISSED = 1_000
"""Ticks that one late tick counts as missed."""


@attrs.frozen
class TickEntry:
    """The last tick of a schedule. `tick`, `started`: milliseconds since the epoch; `called`: False: it was too late.
    `missed`, `not_called`: ticks since the start of the process: those that passed while an earlier one was late, and
    those that were too late for a call."""

    tick: int
    started: int
    called: bool
    missed: int = 0
    not_called: int = 0
    before: tuple[int, int] = (0, 0)
    """`missed` and `not_called` without this tick, which may be looked at again."""


class TickLog:
    """Entries by the title of the schedule."""

    def __init__(self) -> None:
        self.entries: dict[str, TickEntry] = {}

    def noted(self, schedule: Schedule, tick: int, now_ms: int, called: bool) -> TickEntry:
        """A tick was due, and its call begins now or is left out. Called again where the next tick could not be
        stored."""
        known = self.entries.get(schedule.title)
        missed, not_called = 0, 0
        if known is not None:
            missed, not_called = known.before if known.tick == tick else (known.missed, known.not_called)
        passed = missed_between(schedule, tick, now_ms)
        entry = TickEntry(tick, now_ms, called, missed + passed, not_called + (not called), (missed, not_called))
        self.entries[schedule.title] = entry
        return entry


def missed_between(schedule: Schedule, tick: int, now_ms: int) -> int:
    """How many ticks have passed since `tick`, up to `MOST_MISSED`."""
    count = 0
    while count < MOST_MISSED and (tick := schedule.next_tick(tick)) <= now_ms:
        count += 1
    return count

"""What became of ticks: the last one of a schedule, and the ticks that nobody called."""

from __future__ import annotations

from flux.core.schedules import Schedule, interval
from flux.core.tick_log import MOST_MISSED, TickEntry, TickLog, missed_between

MINUTE = 60_000
OFTEN = Schedule("often", "every 60 s", interval(MINUTE))


def test_ticks_that_have_passed_are_counted_up_to_a_bound() -> None:
    counts = [missed_between(OFTEN, MINUTE, now) for now in (0, MINUTE, 2 * MINUTE - 1, 2 * MINUTE, 5 * MINUTE + 3)]
    assert counts == [0, 0, 0, 1, 4]
    assert missed_between(OFTEN, MINUTE, (MOST_MISSED + 100) * MINUTE) == MOST_MISSED


def test_the_last_tick_is_kept_and_those_without_a_call_are_added_up() -> None:
    log = TickLog()
    log.noted(OFTEN, MINUTE, MINUTE + 5, True)
    log.noted(OFTEN, 2 * MINUTE, 4 * MINUTE, True)
    entry = log.noted(OFTEN, 5 * MINUTE, 6 * MINUTE, False)
    assert log.entries == {OFTEN.title: entry}
    assert entry == TickEntry(5 * MINUTE, 6 * MINUTE, False, 3, 1, (2, 0))


def test_a_tick_that_is_looked_at_again_counts_once() -> None:
    log = TickLog()
    for now in (2 * MINUTE, 3 * MINUTE):
        log.noted(OFTEN, MINUTE, now, False)
    assert log.entries[OFTEN.title] == TickEntry(MINUTE, 3 * MINUTE, False, 2, 1, (0, 0))


def test_schedules_are_apart() -> None:
    log, other = TickLog(), Schedule("other", "every 60 s", interval(MINUTE))
    log.noted(OFTEN, MINUTE, 3 * MINUTE, True)
    assert log.noted(other, MINUTE, MINUTE, True).missed == 0

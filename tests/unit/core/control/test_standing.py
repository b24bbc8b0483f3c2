"""What commands add up to: what a running process does, and one that starts later."""

from __future__ import annotations

import itertools
import math

import attrs
import pytest

from flux.core.control import standing
from flux.core.control.commands import SKIP_HOLDS, Action, WorkerCommand
from flux.core.control.standing import Hold, SetRate, Standing

PAUSE = WorkerCommand(action=Action.PAUSE, topic="orders", group="billing", id="1", by="ada@ops", why="audit")
RESUME = attrs.evolve(PAUSE, action=Action.RESUME)
RATE = attrs.evolve(PAUSE, action=Action.SET_RATE, rate=50.0)
SKIP = attrs.evolve(PAUSE, action=Action.SKIP, stage=0, partition=3, offset=7)
STAGES = range(3)


def after(*commands: WorkerCommand) -> Standing:
    """One command a second, from 1,000 ms on."""
    state = Standing()
    for number, command in enumerate(commands, 1):
        state.take(command, number * 1000.0)
    return state


def paused(state: Standing, now: float = 10_000.0) -> list[int]:
    return list(state.holds(STAGES, now))


def test_a_pause_holds_all_stages_until_it_is_resumed() -> None:
    state = after(PAUSE)
    assert state.holds(STAGES, 1e15) == dict.fromkeys(STAGES, Hold("ada@ops", "audit", 1000.0, math.inf))
    state.take(RESUME, 1e15)
    assert paused(state) == []


def test_a_pause_for_some_time_ends_by_itself() -> None:
    state = after(attrs.evolve(PAUSE, seconds=600))
    assert paused(state, 600_999.0) == [0, 1, 2]
    assert paused(state, 601_000.0) == []


def test_the_pause_of_one_stage_leaves_the_others() -> None:
    state = after(attrs.evolve(PAUSE, stage=1))
    assert paused(state) == [1]
    assert not state.holds([1], 0.0)[1].whole
    state.take(attrs.evolve(RESUME, stage=2), 2000.0)
    assert paused(state) == [1]
    state.take(attrs.evolve(RESUME, stage=1), 2000.0)
    assert paused(state) == []


def test_a_stage_stays_paused_with_its_task_until_that_is_resumed_which_resumes_all() -> None:
    state = after(attrs.evolve(PAUSE, stage=1), PAUSE, attrs.evolve(RESUME, stage=1))
    assert paused(state) == [0, 1, 2]
    assert paused(after(attrs.evolve(PAUSE, stage=1), PAUSE, RESUME)) == []


def test_of_two_pauses_the_one_that_ends_later_is_named() -> None:
    state = after(attrs.evolve(PAUSE, stage=1, by="bea"), attrs.evolve(PAUSE, seconds=60))
    assert [hold.by for hold in state.holds([0, 1], 0.0).values()] == ["ada@ops", "bea"]


def test_the_last_rate_holds_until_its_end_or_until_the_code_counts_again() -> None:
    state = after(RATE, attrs.evolve(RATE, rate=0, seconds=60))
    assert state.rate(0.0) == SetRate("ada@ops", None, 62_000.0)
    assert state.rate(62_000.0) is None
    state.take(RATE, 70_000.0)
    assert state.rate(1e15) == SetRate("ada@ops", 50.0, math.inf)
    state.take(attrs.evolve(RATE, rate=None), 80_000.0)
    assert state.rate(0.0) is None


def test_a_record_is_skipped_for_days_so_that_a_process_that_it_kills_does_not_call_it_again() -> None:
    state = after(SKIP)
    state.expire(1000.0 * SKIP_HOLDS)
    assert state.skips == {(0, 3, 7): "audit (skipped by ada@ops)"}
    state.expire(1000.0 + 1000 * SKIP_HOLDS)
    assert state.skips == {}


def test_the_oldest_skips_are_forgotten_beyond_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "MOST_SKIPS", 2)
    state = after(*[attrs.evolve(SKIP, offset=offset) for offset in range(3)])
    assert [offset for _, _, offset in state.skips] == [1, 2]
    state.expire(1e15)
    assert state.skips == {}


def test_a_restart_leaves_nothing_behind() -> None:
    state = after(attrs.evolve(PAUSE, action=Action.RESTART))
    assert (paused(state), state.rate(0.0), state.skips) == ([], None, {})


def test_a_process_that_reads_the_compacted_topic_comes_to_the_same() -> None:
    pauses = [attrs.evolve(PAUSE, stage=stage, seconds=seconds) for stage in (None, 1) for seconds in (None, 60.0)]
    resumes = [attrs.evolve(RESUME, stage=stage) for stage in (None, 1)]
    for commands in itertools.product([*pauses, *resumes], repeat=4):
        whole = {now: after(*commands).holds(STAGES, now) for now in (5000.0, 65_000.0)}
        for to in range(5):
            last = {command.key: number for number, command in enumerate(commands[:to], 1)}
            rest = after()
            for number, command in enumerate(commands, 1):
                if number > to or last[command.key] == number:  # else it was deleted
                    rest.take(command, number * 1000.0)
            assert {now: rest.holds(STAGES, now) for now in whole} == whole, commands

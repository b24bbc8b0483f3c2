"""The seven properties of docs/reliability.md, whatever goes wrong: `make simulate` plays more seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.cut import SIMPLER, Cut
from simulation.features import EXACTLY_ONCE, KILLS, draw
from simulation.holding import HOLDING
from simulation.limited import LIMITED
from simulation.many import run_all
from simulation.ordered import ORDERED
from simulation.play import play
from simulation.scheduled import SCHEDULED
from simulation.shrink import told

SEEDS = 500
ORDERED_SEEDS = 120
HOLDING_SEEDS = 80
LIMITED_SEEDS = 80
SCHEDULED_SEEDS = 80
EVICTED = 87
"""A seed in which a worker calls a key after the group has given its partition to another one."""


@pytest.mark.timeout(900)
def test_nothing_is_lost_repeated_or_out_of_order_whatever_goes_wrong() -> None:
    for figures in run_all(0, SEEDS, processes=2):
        for seed in figures.failed:
            pytest.fail(told(seed, play(draw(seed))))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("wanted", "seeds"),
    [
        ((ORDERED,), ORDERED_SEEDS),
        ((ORDERED, KILLS), ORDERED_SEEDS // 2),
        ((ORDERED, EXACTLY_ONCE), ORDERED_SEEDS // 2),
        ((HOLDING,), HOLDING_SEEDS),
        ((HOLDING, EXACTLY_ONCE), HOLDING_SEEDS // 2),
    ],
)
def test_the_order_of_a_key_is_kept_through_retries_whatever_goes_wrong(wanted: tuple[str, ...], seeds: int) -> None:
    for seed in range(seeds):
        result = play(draw(seed, wanted=wanted))
        assert result.violation is None, "\n".join([f"seed {seed}", *result.history, str(result.violation)])


@pytest.mark.timeout(300)
def test_limits_hold_and_nothing_waits_for_ever_behind_one() -> None:
    for seed in range(LIMITED_SEEDS):
        result = play(draw(seed, wanted=(LIMITED,)))
        assert result.violation is None, "\n".join([f"seed {seed}", *result.history, str(result.violation)])


@pytest.mark.timeout(300)
def test_each_tick_and_the_last_work_of_an_id_are_called_once_whatever_goes_wrong() -> None:
    for seed in range(SCHEDULED_SEEDS):
        result = play(draw(seed, wanted=(SCHEDULED,)))
        assert result.violation is None, "\n".join([f"seed {seed}", *result.history, str(result.violation)])


def test_a_seed_has_the_same_history_in_every_process() -> None:
    seeds = range(12)
    program = (
        "from simulation.play import play; from simulation.features import draw\n"
        f"for seed in {list(seeds)}: print(play(draw(seed)).digest)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    told_there = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert told_there.stdout.split() == [play(draw(seed)).digest for seed in seeds]


def test_a_seed_draws_from_all_kinds_of_trouble() -> None:
    scenarios = [draw(seed) for seed in range(1000)]
    assert {task.mode for scenario in scenarios for task in scenario.tasks} == {
        "threads",
        "tasks",
        "loop",
        "loop-threads",
    }
    assert len({event.kind for scenario in scenarios for event in scenario.events}) == 28
    uses = {name for scenario in scenarios for task in scenario.tasks for name in task.settings}
    assert uses >= {"in_place_retries", "give_up_after", "rate_limit", "timeout", "max_batch"}
    exact = [any("exactly_once" in task.settings for task in scenario.tasks) for scenario in scenarios]
    assert sum(exact) > 200
    assert any(task.surrounded for scenario in scenarios for task in scenario.tasks)
    assert any(record.delay is not None for scenario in scenarios for record in scenario.records)
    assert any(scenario.prompt for scenario in scenarios)
    assert any(scenario.dead_too for scenario in scenarios)


def test_an_evicted_worker_may_call_beside_the_next_owner_until_it_is_notified() -> None:
    played = play(draw(EVICTED, ("kick",), ()))
    assert played.violation is None
    [evicted] = [number for number, line in enumerate(played.history) if line.endswith("w0.1  is evicted from G0")]
    lost = next(number for number, line in enumerate(played.history) if number > evicted and "w0.1  T0[0] lost" in line)
    between = played.history[evicted:lost]
    assert any("w0.1  call" in line and "of T0[0]" in line for line in between)
    assert not any("w0.1  T0[0] committed" in line for line in between)


@pytest.mark.parametrize("name", SIMPLER)
def test_a_scenario_can_do_without(name: str) -> None:
    scenario = draw(3)
    assert play(Cut(events=(), records=(0, 1, 2), workers=1, without=(name,)).of(scenario)).violation is None

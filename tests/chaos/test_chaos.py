"""The short form: some faults of each kind, and every record accounted for. `make chaos` plays all scenarios."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from chaos import exactly_once, outages, scenarios
from chaos.books import Figures
from chaos.cluster import Cluster
from chaos.repertoire import Scenario
from chaos.trial import SESSION, Trial

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]

RATE = 600


def play(scenario: Scenario, cluster: Cluster, directory: Path) -> Figures:
    figures, _ = scenario.play(cluster, directory, rate=RATE)
    assert figures.problems == []
    assert figures.lost == 0
    assert figures.allowed is None or figures.repeated <= figures.allowed
    return figures


def killed_and_frozen(trial: Trial) -> None:
    scenarios.begin(trial, 3)
    trial.stable()
    zombie, victim = trial.random.sample(trial.pids(), 2)
    with trial.frozen(zombie):
        time.sleep(0.5)
        trial.kill(victim)
        trial.start()
        time.sleep(SESSION / 1000 + 2)
    time.sleep(1)


def test_a_killed_worker_and_one_that_stood_still_repeat_only_late_calls(cluster: Cluster, tmp_path: Path) -> None:
    play(Scenario("killed-and-frozen", killed_and_frozen), cluster, tmp_path)


def test_a_broker_that_dies_and_comes_back_costs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    play(Scenario("broker-killed", lambda trial: outages.brokers_killed(trial, 1)), cluster, tmp_path)


def test_a_storm_of_rebalances_repeats_nothing_and_keeps_order(cluster: Cluster, tmp_path: Path) -> None:
    storm = Scenario("storm", lambda trial: scenarios.storm(trial, 6))
    play(storm, cluster, tmp_path)


def test_deployments_repeat_nothing_and_keep_order(cluster: Cluster, tmp_path: Path) -> None:
    deployments = Scenario("deployments", lambda trial: scenarios.deployments(trial, 1))
    play(deployments, cluster, tmp_path)


def test_under_exactly_once_outputs_copies_and_dead_letters_are_seen_once(cluster: Cluster, tmp_path: Path) -> None:
    def faults(trial: Trial) -> None:
        exactly_once.killed_and_frozen(trial, 3)
        exactly_once.coordinator_killed(trial, "__transaction_state")

    play(Scenario("exactly-once", faults, {"exactly_once": True}), cluster, tmp_path)

"""What happens to the workers and to the cluster while records come. Each leaves the cluster whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import attrs

from chaos.books import Figures
from chaos.cluster import Cluster
from chaos.trial import SESSION, Trial

Play = Callable[[Cluster, Path], Figures]


def play(make: Callable[[], Trial], faults: Callable[[Trial], None], in_order: bool = False) -> Figures:
    trial = make()
    try:
        faults(trial)
        return trial.finish(in_order)
    finally:
        trial.close()


def kills(trial: Trial, times: int = 3) -> None:
    """Workers are killed at random and replaced; one is a supervisor's child, which it starts again itself."""
    trial.feed()
    trial.start(processes=2)
    for _ in range(2):
        trial.start()
    trial.working()
    for _ in range(times):
        trial.stable()
        time.sleep(trial.random.random())
        victim = trial.random.choice(trial.pids())
        trial.kill(victim)
        if victim not in [pid for worker in trial.workers if worker.processes > 1 for pid in worker.pids()]:
            trial.start()


def deployments(trial: Trial, times: int = 3) -> None:
    """Every worker is replaced, one after the other, by SIGTERM and a new one: nothing is repeated."""
    trial.feed()
    for _ in range(2):
        trial.start()
    trial.working()
    for _ in range(times):
        for old in [worker for worker in trial.workers if worker.alive]:
            trial.note("deployment", excuses=False)
            old.ask_to_end()
            trial.start()
            assert old.ended() == 0
            time.sleep(0.5)
        trial.working()


def storm(trial: Trial, seconds: float = 12.0) -> None:
    """A worker joins or leaves each second, in good order: nothing is repeated."""
    trial.feed()
    trial.start()
    trial.start()
    trial.working()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        trial.note("join or leave", excuses=False)
        alive = [worker for worker in trial.workers if worker.alive]
        if len(alive) < 4:
            trial.start()
        else:
            alive[0].ask_to_end()
        time.sleep(1.0)


def zombie(trial: Trial) -> None:
    """A worker stands still for longer than its session, loses its partitions, and comes back not knowing it."""
    trial.feed()
    trial.start()
    trial.start()
    trial.working()
    time.sleep(1)
    trial.freeze(trial.random.choice(trial.pids()), SESSION / 1000 + 3)
    time.sleep(2)


def broker_killed(trial: Trial, brokers: int = 1) -> None:
    """Brokers lose their power, one after the other, and come back on their data."""
    trial.feed()
    trial.start()
    trial.start()
    trial.working()
    for node in trial.random.sample(trial.cluster.nodes, brokers):
        with trial.noted("broker killed"):
            node.kill()
            time.sleep(5)
            trial.cluster.start()
        time.sleep(1)

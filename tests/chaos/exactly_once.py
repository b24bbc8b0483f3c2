"""Whatever dies, a reader of committed records finds each output, copy and dead letter once.

The history's checker looks for them: each trial of a task with `exactly_once` is read by a read_committed consumer.
"""

from __future__ import annotations

import socket
import time

from chaos.scenarios import begin, kill_one
from chaos.trial import SESSION, Trial

_TO_LAST = 2 * SESSION / 1000
"""Seconds for which commits may wait: a rebalance waits for the sessions of the dead."""


def killed_and_frozen(trial: Trial, faults: int = 34) -> None:
    """A fault every one to three seconds: workers killed, stopped for longer than their session, started and ended,
    and the brokers that keep the group and the workers' transactions killed."""
    begin(trial, 3)
    for number in range(1, faults + 1):
        if number % 12 == 0:
            coordinator_killed(trial, "__transaction_state" if number % 24 else "__consumer_offsets")
        elif number % 6 == 3:
            trial.freeze(trial.random.choice(trial.pids()), SESSION / 1000 + 2, since=_TO_LAST)
        elif number % 6 == 5:
            trial.note("join or leave")
            trial.start()
            next(worker for worker in trial.workers if worker.works).ask_to_end()
        else:
            kill_one(trial, since=_TO_LAST)
        time.sleep(trial.random.uniform(1, 3))


def coordinator_killed(trial: Trial, topic: str) -> None:
    name = trial.group if topic == "__consumer_offsets" else f"flux-{trial.group}-{socket.gethostname()}-0"
    node = trial.cluster.coordinator(name, topic)
    with trial.noted("coordinator killed", since=_TO_LAST):
        node.kill()
        time.sleep(3)
        trial.cluster.start()

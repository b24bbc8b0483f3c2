"""What happens to workers while records come. Each scenario leaves the cluster whole."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from chaos.trial import SESSION, Trial, wait_for

Faults = Callable[[Trial], None]


def begin(trial: Trial, workers: int = 2) -> None:
    trial.feed()
    for _ in range(workers):
        trial.start()
    trial.working()


def kills(trial: Trial, times: int = 3) -> None:
    """Workers are killed at random and replaced; some are a supervisor's children, which it starts again itself."""
    trial.start(processes=2)
    begin(trial)
    for _ in range(times):
        trial.stable()
        time.sleep(trial.random.random())
        kill_one(trial)


def kill_one(trial: Trial, since: float = 0.0) -> None:
    victim = trial.random.choice(trial.pids())
    supervised = any(victim in worker.pids() for worker in trial.workers if worker.processes > 1)
    trial.kill(victim, since)
    if not supervised:
        trial.start()


def children_killed(trial: Trial, times: int = 4) -> None:
    """Children with a static membership are killed, and come back as the same members: no rebalance, no waiting."""
    trial.feed()
    trial.start(processes=3)
    trial.working()
    for _ in range(times):
        trial.stable()
        time.sleep(trial.random.random())
        victim = trial.random.choice(trial.pids())
        trial.kill(victim)
        wait_for(lambda victim=victim: len(set(trial.pids()) - {victim}) == 3, "it is started again", 10)  # type: ignore[misc]
        trial.working()


def killed_while_rebalancing(trial: Trial, times: int = 8) -> None:
    """A worker is killed every two seconds, so that the group never comes to rest. Commits wait for the end of a
    rebalance, which waits for the sessions of the dead."""
    begin(trial, 3)
    for _ in range(times):
        kill_one(trial, since=2 * SESSION / 1000)
        time.sleep(2)


def zombie(trial: Trial, times: int = 1) -> None:
    """A worker stands still for longer than its session, loses its partitions, and comes back not knowing it."""
    begin(trial)
    for _ in range(times):
        trial.stable()
        trial.freeze(trial.random.choice(trial.pids()), SESSION / 1000 + 3)
    time.sleep(2)


def deployments(trial: Trial, times: int = 3) -> None:
    """Every worker is replaced, one after the other, by SIGTERM and a new one: nothing is repeated."""
    begin(trial)
    for _ in range(times):
        for old in [worker for worker in trial.workers if worker.works]:
            trial.note("deployment", excuses=False)
            old.ask_to_end()
            trial.start()
            assert old.ended() == 0
            time.sleep(0.5)
        trial.working()


def storm(trial: Trial, seconds: float = 12.0) -> None:
    """A worker joins or leaves each second, in good order: nothing is repeated."""
    begin(trial)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        trial.note("join or leave", excuses=False)
        alive = [worker for worker in trial.workers if worker.works]
        if len(alive) < 4:
            trial.start()
        else:
            alive[0].ask_to_end()
        time.sleep(1.0)


SLOW = {300: 20.0}
MAX_POLL = 8_000


def slow_call(trial: Trial) -> None:
    """A call takes longer than max.poll.interval.ms: no rebalance, nothing is repeated, others go on."""
    begin(trial)
    trial.stable()
    joined = trial.log().count("assigned")
    with trial.noted("slow call", excuses=False):
        wait_for(
            lambda: any(call.number in SLOW and call.stage == 0 and call.ended is not None for call in trial.calls()),
            "the slow call ends",
            40,
        )
    [call] = [call for call in trial.calls() if call.number in SLOW and call.stage == 0]
    assert call.ended is not None
    assert call.ended - call.began > 2 * MAX_POLL / 1000
    log = trial.log()
    assert log.count("assigned") == joined, "a slow call caused a rebalance"
    assert "lost" not in log


def cut_off_log(trial: Trial) -> None:
    """Retention takes records that nobody has worked: that is said, with their number; all others are worked."""
    begin(trial)
    time.sleep(2)
    for worker in trial.workers:
        worker.ask_to_end()
    assert [worker.ended() for worker in trial.workers] == [0, 0]
    time.sleep(3)
    positions = trial.positions(0)
    trial.feeder.paused = True
    time.sleep(1)
    lows = {partition: positions[partition] + 100 * (partition + 1) for partition in (0, 1, 2)}
    trial.note("records deleted", excuses=False)
    trial.delete_below(lows)
    trial.gone = {
        number
        for number, (partition, offset) in list(trial.feeder.places.items())
        if positions[partition] <= offset < lows.get(partition, 0)
    }
    trial.feeder.paused = False
    begin_again = len(trial.workers)
    for _ in range(2):
        trial.start()
    wait_for(lambda: trial.log().count("are gone before they were processed") == len(lows), "the loss is told", 30)
    told = sum(int(number) for number in re.findall(r"(\d+) offset\(s\) are gone", trial.log()))
    assert (told, len(trial.workers)) == (len(trial.gone), begin_again + 2)
    time.sleep(2)

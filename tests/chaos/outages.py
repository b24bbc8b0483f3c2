"""What happens to the cluster while records come. Each scenario leaves it whole."""

from __future__ import annotations

import time

from chaos import plan, scenarios
from chaos.scenarios import begin
from chaos.trial import SESSION, Trial, wait_for


def brokers_killed(trial: Trial, brokers: int = 3) -> None:
    """Brokers lose their power, one after the other, and come back on their data."""
    begin(trial)
    for node in trial.random.sample(trial.cluster.nodes, brokers):
        with trial.noted("broker killed"):
            node.kill()
            time.sleep(5)
            trial.cluster.start()
        time.sleep(1)


AGAIN = 30.0
"""Seconds within which all goes on once the network or the brokers are well again."""
_BUSY = 10.0  # for a machine of two cores


def half_open(trial: Trial, pause: float = 20.0) -> None:
    """All connections of the workers fall silent and stay open, twice; new ones work. No process is started again."""
    begin(trial)
    for _ in range(2):
        time.sleep(pause)
        with trial.noted("connections silent"):
            for proxy in trial.cluster.links:
                proxy.silence()
            goes_on(trial)


def hung_broker(trial: Trial, seconds: float = 45.0) -> None:
    """One of three brokers stands still and keeps its connections, for longer than sessions and deliveries last."""
    begin(trial)
    time.sleep(2)
    node = trial.random.choice(trial.cluster.nodes)
    with trial.noted("broker hung"):
        node.hang()
        try:
            time.sleep(seconds)
        finally:
            node.go_on()
        goes_on(trial)
    trial.cluster.wait_in_sync()


def goes_on(trial: Trial) -> None:
    """Every worker makes calls of records that come from now on, and so does every stage, in time and by the same
    processes."""
    well, pids, given = time.monotonic(), set(trial.pids()), trial.feeder.given

    def all_work() -> bool:
        calls = [call for call in trial.calls() if call.number >= given]
        return {call.pid for call in calls} >= pids and {call.stage for call in calls} >= set(range(plan.DEAD))

    wait_for(all_work, "all workers and stages go on", AGAIN + _BUSY)
    print(f"{time.monotonic() - well:.1f} s until all went on", flush=True)
    assert set(trial.pids()) == pids


def rolling_restart(trial: Trial) -> None:
    """Every broker is restarted in good order, one after the other."""
    begin(trial)
    for node in trial.cluster.nodes:
        with trial.noted("broker restarted"):
            node.stop()
            trial.cluster.start()
        time.sleep(1)


def blackout(trial: Trial, seconds: float = 30.0) -> None:
    """All brokers are gone at once, for longer than sessions and deliveries may last."""
    begin(trial)
    time.sleep(2)
    with trial.noted("all brokers down"):
        for node in trial.cluster.nodes:
            node.kill()
        time.sleep(seconds)
        trial.cluster.start()
    time.sleep(5)


def read_only(trial: Trial, seconds: float = 12.0) -> None:
    """A retry topic takes no records, as too few replicas are in sync. Kafka 4 takes `min.insync.replicas` above the
    number of replicas for that number, so a broker is stopped too."""

    def retried() -> int:
        return sum(call.stage == 1 for call in trial.calls())

    begin(trial)
    retry = trial.topics[1]
    trial.configure(retry, "min.insync.replicas", "3")
    with trial.noted("topic read-only"):
        trial.random.choice(trial.cluster.nodes).stop()
        time.sleep(5)
        before = retried()
        time.sleep(seconds)
        assert 0 < before == retried(), "the topic took records"
        trial.cluster.start()
    trial.configure(retry, "min.insync.replicas", "2")
    time.sleep(2)


def throttled(trial: Trial, seconds: float = 12.0) -> None:
    """A full disk, as far as a producer sees it: a quota of next to nothing for what the workers write."""
    first = trial.cluster.nodes[0]
    quota = ["--bootstrap-server", trial.cluster.bootstrap, "--alter", "--entity-type", "clients"]
    quota += ["--entity-name", "throttled"]
    begin(trial)
    with trial.noted("producers throttled", excuses=False):
        first.tool("kafka.admin.ConfigCommand", *quota, "--add-config", "producer_byte_rate=10000")
        time.sleep(seconds)
        first.tool("kafka.admin.ConfigCommand", *quota, "--delete-config", "producer_byte_rate")
    time.sleep(2)


def dead_letters_recreated(trial: Trial, pause: float = 5.0) -> None:
    """The dead letters' topic is deleted, and made again some seconds later, while records come: what could not be
    written meanwhile is kept."""
    begin(trial)
    time.sleep(2)
    trial.feeder.paused = True
    time.sleep(0.5)
    trial.settle()
    trial.gone = {number for number in range(trial.feeder.given) if plan.dies(number)}
    with trial.noted("topic made anew", excuses=False):
        trial.delete(trial.topics[plan.DEAD])
        trial.feeder.paused = False
        time.sleep(pause)
        trial.create(trial.topics[plan.DEAD])
    time.sleep(3)


def retry_topic_recreated(trial: Trial, pause: float = 3.0) -> None:
    """The same with a retry topic, as it is to be done: nothing waits in it, and its workers are stopped."""
    begin(trial)
    time.sleep(2)
    trial.feeder.paused = True
    time.sleep(0.5)
    trial.settle()
    for worker in trial.workers:
        worker.ask_to_end()
    assert [worker.ended() for worker in trial.workers] == [0, 0]
    with trial.noted("topic made anew", excuses=False):
        trial.delete(trial.topics[1])
        trial.feeder.paused = False
        time.sleep(pause)
        trial.create(trial.topics[1])
    for _ in range(2):
        trial.start()
    time.sleep(3)


def havoc(trial: Trial, seconds: float = 60.0) -> None:
    """Everything at random: kills, zombies, brokers, joins and leaves."""
    begin(trial, 3)
    nodes = trial.cluster.nodes
    until = time.monotonic() + seconds
    with trial.noted("havoc"):
        while time.monotonic() < until:
            match trial.random.randrange(5):
                case 0:
                    scenarios.kill_one(trial)
                case 1:
                    trial.freeze(trial.random.choice(trial.pids()), trial.random.choice([1, SESSION / 1000 + 2]))
                case 2:
                    node = trial.random.choice(nodes)
                    trial.note("broker killed")
                    node.kill()
                    time.sleep(trial.random.uniform(0, 4))
                    trial.cluster.start()
                case 3:
                    trial.note("join or leave")
                    trial.start()
                    next(worker for worker in trial.workers if worker.works).ask_to_end()
                case 4:
                    time.sleep(3)
        trial.cluster.start()

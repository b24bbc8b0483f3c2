"""The processes that a broken network befalls: a worker and a producer of each adapter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from chaos import plan
from chaos.cluster import Cluster
from chaos.trial import PARTITIONS, SESSION, Trial

from proof.network.checks import Produced

MAX_POLL = 10_000  # milliseconds
WORKERS = {
    "confluent": f"session.timeout.ms={SESSION}&heartbeat.interval.ms=1000&max.poll.interval.ms={MAX_POLL}",
    "aiokafka": f"session_timeout_ms={SESSION}&heartbeat_interval_ms=1000&max_poll_interval_ms={MAX_POLL}",
}
RATE = 40
"""Records a second for each process: few, so that CPU time is what an outage costs and not what records do."""
WARM_UP = dict.fromkeys(range(40), 1.0)
"""Seconds that the first calls take: so many at once that the worker makes all threads it ever will, and none is left
to be made when an outage ends and everything comes at once."""
_DELIVERY = 120.0  # seconds, longer than any outage: so no record may fail
_ENDS = 150.0
_TESTS = Path(__file__).parents[2]


class Worker:
    kind = "worker"

    def __init__(self, cluster: Cluster, directory: Path, adapter: str, group: str, accompanied: bool) -> None:
        """`accompanied`: its group has a second worker, whose network is sound."""
        self.adapter = adapter
        self.trial = Trial(
            cluster,
            directory,
            rate=RATE,
            scheme=adapter,
            options=WORKERS[adapter],
            linked=True,
            group=group,
            slow=WARM_UP,
        )
        self.trial.feed()
        self._process = self.trial.start()
        self.pid = self._process.process.pid
        self.log = self._process.log
        self.topics = [self.trial.topic, self.trial.topics[1]]
        self._from = 0
        if accompanied:
            self.trial.start(linked=False)

    @property
    def alive(self) -> bool:
        return self._process.alive

    def mark(self) -> None:
        self._from = self.trial.feeder.given

    def works(self) -> bool:
        """Whether records of every stage and partition that were produced since `mark` are called, some by it."""
        calls = [call for call in self.trial.calls() if call.number >= self._from]
        main = {call.partition for call in calls if call.stage == 0}
        return (
            len(main) == PARTITIONS
            and {call.stage for call in calls} >= set(range(plan.DEAD))
            and self.pid in {call.pid for call in calls}
        )

    def finish(self) -> tuple[int, list[str]]:
        """Ends it; how many records were lost, and all problems."""
        figures = self.trial.finish()
        return figures.lost, figures.problems

    def close(self) -> None:
        self.trial.close()


class Producer:
    kind = "producer"

    def __init__(self, cluster: Cluster, directory: Path, adapter: str, topic: str, trial: Trial) -> None:
        """`trial`: whose cluster it shares, to make and read topics with."""
        self.adapter = adapter
        self.topics = [topic]
        self.log = directory / "producer.log"
        self._books = directory / "produced"
        self._books.touch()
        self._trial = trial
        self._from = 0
        trial.create(topic)
        given = {"topic": topic, "books": str(self._books), "rate": RATE, "delivery_timeout": _DELIVERY}
        environment = {"NETWORK": json.dumps(given), "FLUX_ADAPTER": f"{adapter}://{cluster.linked}"}
        path = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [*cluster.inside, sys.executable, "-m", "proof.network.produce"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **environment, "PYTHONPATH": path},
            )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def mark(self) -> None:
        self._from = len(self._read().given)

    def works(self) -> bool:
        """Whether every partition has acknowledged a record that was sent since `mark`."""
        lines = [line.split() for line in self._books.read_text().splitlines()]
        written = [line for line in lines if line[0] == "acknowledged" and int(line[1]) >= self._from]
        return len({line[2] for line in written}) == PARTITIONS

    def _read(self) -> Produced:
        lines = [line.split(" ", 2) for line in self._books.read_text().splitlines()]

        def numbers(*kinds: str) -> frozenset[int]:
            return frozenset(int(line[1]) for line in lines if line[0] in kinds)

        return Produced(
            numbers("given", "sent"),
            numbers("sent"),
            numbers("acknowledged"),
            numbers("failed"),
            ["ended"] in lines,
        )

    def finish(self) -> tuple[int, list[str]]:
        self._process.terminate()
        code: object = "none"
        try:
            code = self._process.wait(_ENDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        produced = self._read()
        stored = [int(message.value()) for message in self._trial.read(self.topics[0])]
        problems = produced.problems(stored)
        if code != 0:
            problems.append(f"the producer ended with exit code {code}")
        return produced.lost(stored), problems

    def close(self) -> None:
        if self.alive:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)


Subject = Worker | Producer

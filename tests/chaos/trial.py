"""One trial: topics of its own, a feeder, workers, faults as they are injected, and the books at the end."""

from __future__ import annotations

import json
import random
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupState, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)
from proof.history import kafka
from proof.history.checker import check
from proof.history.events import Deleted, Died, Timed, now, read, write

from chaos import books, plan, trial_history
from chaos.books import STALLED, Fault, Figures
from chaos.cluster import Cluster
from chaos.feeder import Feeder
from chaos.fleet import Worker, send

PARTITIONS = 6
COMMIT = 1.0
"""Seconds between two commits of a worker."""
WINDOW = COMMIT + 1.0
"""Seconds that a call's end may be uncommitted: the interval, and a machine of two cores that is busy."""
SESSION = 6_000
"""Milliseconds after which the group gives up a member."""
HISTORY_FILE = "history.jsonl"
"""In the trial's directory."""
_ASK = 10.0
_BUGS = re.compile(r"^Traceback.*\n(?: .*\n)+(?!chaos\.work\.|flux\.(?:Reject|Retry)\b)(\S.*)$", re.MULTILINE)
"""Tracebacks in a log, but for those of what the plan has calls raise."""


class Trial:
    def __init__(
        self,
        cluster: Cluster,
        directory: Path,
        *,
        rate: int = 1000,
        scheme: str = "confluent",
        options: str = f"session.timeout.ms={SESSION}&heartbeat.interval.ms=1000",
        slow: dict[int, float] | None = None,
        tokens: bool = False,
        linked: bool = False,
        group: str = "",
        **settings: Any,
    ) -> None:
        """`rate`: records a second; `options`: of the workers' adapter; `tokens`: whether they log in with some, as
        the file `self.tokens` says; `linked`: whether they reach the brokers by `cluster.links`; `settings`: the
        task's."""
        self.cluster = cluster
        self.admin: AdminClient = cluster.admin
        self.directory = directory
        self.random = random.Random()
        self.group = group or f"g{secrets.token_hex(4)}"
        self.topic = f"t{secrets.token_hex(4)}"
        self.out = f"{self.topic}-out"
        self.topics = [self.topic, *(f"{self.topic}-{self.group}-try-{n}" for n in range(1, plan.DEAD))]
        self.topics.append(f"{self.topic}-{self.group}-dlq")
        self.groups = [self.group, *(f"{self.group}-{n}" for n in range(1, plan.DEAD))]
        self.workers: list[Worker] = []
        self.faults: list[Fault] = []
        self.history: list[Timed] = []
        """What is not written by the workers."""
        self.gone: set[int] = set()
        """Numbers that Kafka has deleted before they were worked."""
        self.began = time.monotonic()
        self._rate = rate
        self._feeder: Feeder | None = None
        self._task = "AsyncWork" if scheme == "aiokafka" else "Work"
        self._linked = linked
        self._adapter = f"{scheme}://{{}}?{options}"
        self.exactly_once = bool(settings.get("exactly_once"))
        self.tokens = directory / "tokens" if tokens else None
        login = {"scheme": scheme, "bootstrap": cluster.tokens, "options": options, "state": str(self.tokens)}
        (directory / "books").mkdir()
        self._environment = {
            "CHAOS": json.dumps(
                {
                    "topic": self.topic,
                    "group": self.group,
                    "out": self.out,
                    "books": str(directory / "books"),
                    "slow": slow or {},
                    "tokens": login if tokens else None,
                    "settings": {
                        "retries": plan.RETRIES,
                        "wait": plan.WAITS,
                        "offset_commit_interval": COMMIT,
                        **settings,
                    },
                }
            )
        }
        self.create(self.topic, self.out)

    # ---- the cluster

    def create(self, *names: str, **config: object) -> None:
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        asked = self.admin.create_topics([NewTopic(name, PARTITIONS, -1, config=settings) for name in names])
        for future in asked.values():
            future.result(_ASK)

    def delete(self, topic: str) -> None:
        self.history.append(Deleted(self.topics.index(topic), None, now()))
        self.admin.delete_topics([topic])[topic].result(_ASK)

    def delete_below(self, lows: dict[int, int]) -> None:
        """Deletes the main topic's records below these offsets, by partition."""
        self.history.append(Deleted(0, tuple(lows.items()), now()))
        for future in self.admin.delete_records([TopicPartition(self.topic, *low) for low in lows.items()]).values():
            future.result(_ASK)

    def configure(self, topic: str, name: str, value: str) -> None:
        change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[change])
        self.admin.incremental_alter_configs([resource])[resource].result(_ASK)

    def positions(self, stage: int) -> dict[int, int]:
        # an admin client that asks this while a coordinator is being found ends the process (librdkafka 2.16)
        member = Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": self.groups[stage]})
        try:
            found = member.committed([TopicPartition(self.topics[stage], n) for n in range(PARTITIONS)], _ASK)
        finally:
            member.close()
        return {p.partition: p.offset for p in found if p.offset >= 0}

    def ends(self, topic: str) -> dict[int, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = self.admin.list_offsets({TopicPartition(topic, number): latest for number in range(PARTITIONS)})
        ends = {p.partition: future.result(_ASK).offset for p, future in asked.items()}
        assert min(ends.values()) >= 0, f"{topic} has a partition without a leader"
        return ends

    def lag(self, stage: int) -> int | str:
        """Records of a stage that are not committed; what went wrong when the cluster does not say."""
        try:
            self.admin.list_topics(timeout=_ASK)  # else it asks leaders of old
            positions = self.positions(stage)
            return sum(max(0, end - max(positions.get(n, 0), 0)) for n, end in self.ends(self.topics[stage]).items())
        except (KafkaException, AssertionError) as error:
            return str(error)

    # ---- records

    def feed(self) -> None:
        self._feeder = Feeder(self.cluster.bootstrap, self.topic, self._rate)

    @property
    def feeder(self) -> Feeder:
        assert self._feeder is not None
        return self._feeder

    def calls(self) -> list[books.Call]:
        return books.read(self.directory / "books")

    def working(self, seconds: float = 60.0) -> None:
        """Waits for the first calls of every worker."""

        def all_began() -> bool:
            pids = {call.pid for call in self.calls()}
            return all(pids.intersection(worker.pids()) for worker in self.workers if worker.works)

        wait_for(all_began, "all workers work", seconds)

    def settle(self, seconds: float = 60.0) -> None:
        """Waits until each stage is worked and committed; in the order in which records move."""
        wait_for(
            lambda: all(self.lag(stage) == 0 for stage in range(plan.DEAD)),
            lambda: f"all is worked; left: {[self.lag(stage) for stage in range(plan.DEAD)]}",
            seconds,
        )

    def stable(self, seconds: float = 30.0) -> None:
        """Waits until no group rebalances, and for as long as a call's end may be uncommitted: commits wait for the end
        of a rebalance, which waits for members that are dead."""

        def all_stable() -> bool:
            asked = self.admin.describe_consumer_groups(self.groups)
            return all(future.result(_ASK).state is ConsumerGroupState.STABLE for future in asked.values())

        wait_for(all_stable, "the groups are stable", seconds)
        time.sleep(WINDOW)

    # ---- workers

    def start(self, processes: int = 1, linked: bool = True) -> Worker:
        """`linked`: False: it reaches the brokers directly, whatever the trial's workers do."""
        log = self.directory / f"worker-{len(self.workers)}.log"
        linked = linked and self._linked
        adapter = self._adapter.format(self.cluster.linked if linked else self.cluster.bootstrap)
        inside = self.cluster.inside if linked else ()
        worker = Worker(log, self._task, adapter, processes, self._environment, inside)
        self.workers.append(worker)
        return worker

    def pids(self) -> list[int]:
        return [pid for worker in self.workers for pid in worker.pids()]

    # ---- faults

    def note(self, kind: str, pid: int | None = None, excuses: bool = True) -> None:
        at = time.monotonic()
        self.faults.append(Fault(kind, at, at, pid, excuses))

    @contextmanager
    def noted(self, kind: str, pid: int | None = None, excuses: bool = True, since: float = 0.0) -> Iterator[None]:
        """A fault that lasts. `since`: for how many seconds before commits may have had to wait."""
        at = time.monotonic() - since
        try:
            yield
        finally:
            self.faults.append(Fault(kind, at, time.monotonic(), pid, excuses))

    def kill(self, pid: int, since: float = 0.0) -> None:
        """`since`: as for `noted`."""
        send(pid, signal.SIGKILL)
        died = time.monotonic()
        self.history.append(Died(pid, now()))
        self.faults.append(Fault("kill", died - since, died, pid))

    @contextmanager
    def frozen(self, pid: int, since: float = 0.0) -> Iterator[None]:
        with self.noted("zombie", pid, since=since):
            send(pid, signal.SIGSTOP)
            try:
                yield
            finally:
                send(pid, signal.SIGCONT)

    def freeze(self, pid: int, seconds: float, since: float = 0.0) -> None:
        with self.frozen(pid, since):
            time.sleep(seconds)

    def log(self) -> str:
        """Of all workers."""
        return "".join(worker.log.read_text(errors="replace") for worker in self.workers)

    # ---- the end

    def finish(self) -> Figures:
        """Stops the feeder, waits until all is worked, stops the workers in good order, writes the history, and does
        the books."""
        count = self.feeder.end()
        self.faults += [Fault(STALLED, at, until) for at, until in self.feeder.stalls]
        problems = []
        try:
            self.settle()
        except AssertionError as late:
            problems.append(str(late))
        for worker in self.workers:
            worker.ask_to_end()
        killed = {fault.pid for fault in self.faults if fault.kind == "kill"}
        for number, worker in enumerate(self.workers):
            code = worker.ended()
            if code != (-9 if worker.process.pid in killed else 0):
                problems.append(f"worker {number} ended with exit code {code}")
            if strange := _BUGS.findall(worker.log.read_text(errors="replace")):
                problems.append(f"worker {number} has a traceback in its log: {strange[0]}")
        copies = {stage: self.read(topic) for stage, topic in enumerate(self.topics)}
        outputs = self.read(self.out)
        path = self.directory / HISTORY_FILE
        write(path, trial_history.history(self, copies, outputs))
        figures = books.audit(
            set(range(count)) - self.gone,
            self.calls(),
            copies,
            outputs,
            self.faults,
            WINDOW,
            check(read(path), self.exactly_once),
        )
        figures.problems[:0] = problems
        return figures

    def read(self, topic: str) -> list[Any]:
        return kafka.read_topic(self.cluster.bootstrap, topic)

    def close(self) -> None:
        if self._feeder is not None:
            self._feeder._stop.set()
        for worker in self.workers:
            worker.kill()
        for future in self.admin.delete_topics([*self.topics, self.out]).values():
            with suppress(KafkaException):
                future.result(_ASK)


def wait_for(true: Callable[[], object], what: str | Callable[[], str], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.3)

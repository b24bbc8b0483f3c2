"""One trial: topics of its own, a feeder, workers, faults as they are injected, and the books at the end."""

from __future__ import annotations

import json
import random
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)

from chaos import books, plan
from chaos.books import STALLED, Fault, Figures
from chaos.cluster import Cluster
from chaos.fleet import Worker, send

PARTITIONS = 6
COMMIT = 1.0
"""Seconds between two commits of a worker."""
WINDOW = COMMIT + 1.0
"""Seconds that a call's end may be uncommitted: the interval, and a machine of two cores that is busy."""
SESSION = 6_000
"""Milliseconds after which the group gives up a member."""
STALL = 1.0
"""Seconds until a write is acknowledged beyond which the cluster itself is at fault, as when a disk stands still."""
MOST = 60_000
"""Records of one trial, at most."""
_ASK = 10.0
_BUGS = re.compile(r"^Traceback.*\n(?: .*\n)+(?!chaos\.work\.|flux\.(?:Reject|Retry)\b)(\S.*)$", re.MULTILINE)
"""Tracebacks in a log, but for those of what the plan has calls raise."""


class Feeder:
    """A plain producer that writes the plan's records at a steady rate, each once."""

    def __init__(self, bootstrap: str, topic: str, rate: int) -> None:
        self._topic = topic
        self._rate = rate
        self._stop = threading.Event()
        self._client = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "delivery.timeout.ms": 120_000,
                "log_level": 0,
            }
        )
        self.given = 0
        self.places: dict[int, tuple[int, int]] = {}
        """(partition, offset) of each number that is acknowledged."""
        self.stalls: list[tuple[float, float]] = []
        """When the cluster took longer than STALL, whatever befell the workers."""
        self.paused = False
        self.failures: list[Any] = []
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        before, owed = time.monotonic(), 0.0
        while not self._stop.wait(0.02) and self.given < MOST:
            now = time.monotonic()
            owed, before = 0.0 if self.paused else owed + (now - before) * self._rate, now
            wanted = min(self.given + int(owed), MOST)
            owed -= wanted - self.given
            for number in range(self.given, wanted):
                self._client.produce(
                    self._topic,
                    plan.value(number),
                    plan.key(number),
                    headers=plan.headers(number) or None,
                    on_delivery=self._delivered,
                )
            self.given = max(self.given, wanted)
            self._client.poll(0)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is None:
            self.places[plan.number_of(message.value())] = message.partition(), message.offset()
            self._look(time.monotonic(), message.latency())
        else:
            self.failures.append(error)

    def _look(self, now: float, latency: float) -> None:
        if latency < STALL:
            return
        if self.stalls and self.stalls[-1][1] > now - latency:
            self.stalls[-1] = self.stalls[-1][0], now
        else:
            self.stalls.append((now - latency, now))

    def end(self) -> int:
        """How many there are; all acknowledged."""
        self._stop.set()
        self._thread.join(10)
        left = self._client.flush(120)
        assert not self.failures, self.failures[:3]
        assert (left, len(self.places)) == (0, self.given)
        return self.given


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
        proxied: bool = False,
        group: str = "",
        **settings: Any,
    ) -> None:
        """`rate`: records a second; `options`: of the workers' adapter; `tokens`: whether they log in with some, as
        the file `self.tokens` says; `proxied`: whether they reach the brokers by `cluster.proxies`; `settings`: the
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
        self.workers: list[Worker] = []
        self.faults: list[Fault] = []
        self.gone: set[int] = set()
        """Numbers that Kafka has deleted before they were worked."""
        self.began = time.monotonic()
        self._rate = rate
        self._feeder: Feeder | None = None
        self._task = "AsyncWork" if scheme == "aiokafka" else "Work"
        self._adapter = f"{scheme}://{cluster.proxied if proxied else cluster.bootstrap}?{options}"
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
                        "wait": [0.5, 1.0],
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
        self.admin.delete_topics([topic])[topic].result(_ASK)

    def delete_below(self, lows: dict[int, int]) -> None:
        """Deletes the main topic's records below these offsets, by partition."""
        for future in self.admin.delete_records([TopicPartition(self.topic, *low) for low in lows.items()]).values():
            future.result(_ASK)

    def configure(self, topic: str, name: str, value: str) -> None:
        change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[change])
        self.admin.incremental_alter_configs([resource])[resource].result(_ASK)

    def read(self, topic: str) -> list[Any]:
        """All that a topic holds, by a plain client."""
        client = Consumer(
            {
                "bootstrap.servers": self.cluster.bootstrap,
                "group.id": "reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        try:
            client.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
            found, open_ = [], set(range(PARTITIONS))
            until = time.monotonic() + 30
            while open_:
                assert time.monotonic() < until, f"{topic} cannot be read"
                for message in client.consume(1000, 0.2):
                    if message.error() is None:
                        found.append(message)
                    elif message.error().code() == KafkaError._PARTITION_EOF:  # type: ignore[union-attr]
                        open_.discard(message.partition())
            return found
        finally:
            client.close()

    def positions(self, stage: int) -> dict[int, int]:
        group = self.group if stage == 0 else f"{self.group}-{stage}"
        # an admin client that asks this while a coordinator is being found ends the process (librdkafka 2.16)
        member = Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": group})
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
        groups = [self.group, *(f"{self.group}-{stage}" for stage in range(1, plan.DEAD))]

        def all_stable() -> bool:
            asked = self.admin.describe_consumer_groups(groups)
            return all(future.result(_ASK).state is ConsumerGroupState.STABLE for future in asked.values())

        wait_for(all_stable, "the groups are stable", seconds)
        time.sleep(WINDOW)

    # ---- workers

    def start(self, processes: int = 1) -> Worker:
        log = self.directory / f"worker-{len(self.workers)}.log"
        worker = Worker(log, self._task, self._adapter, processes, self._environment)
        self.workers.append(worker)
        return worker

    def pids(self) -> list[int]:
        return [pid for worker in self.workers for pid in worker.pids()]

    # ---- faults

    def note(self, kind: str, pid: int | None = None, excuses: bool = True) -> None:
        now = time.monotonic()
        self.faults.append(Fault(kind, now, now, pid, excuses))

    @contextmanager
    def noted(self, kind: str, pid: int | None = None, excuses: bool = True) -> Iterator[None]:
        """A fault that lasts."""
        at = time.monotonic()
        try:
            yield
        finally:
            self.faults.append(Fault(kind, at, time.monotonic(), pid, excuses))

    def kill(self, pid: int, since: float = 0.0) -> None:
        """`since`: for how many seconds before commits may have had to wait."""
        send(pid, signal.SIGKILL)
        now = time.monotonic()
        self.faults.append(Fault("kill", now - since, now, pid))

    @contextmanager
    def frozen(self, pid: int) -> Iterator[None]:
        with self.noted("zombie", pid):
            send(pid, signal.SIGSTOP)
            try:
                yield
            finally:
                send(pid, signal.SIGCONT)

    def freeze(self, pid: int, seconds: float) -> None:
        with self.frozen(pid):
            time.sleep(seconds)

    def log(self) -> str:
        """Of all workers."""
        return "".join(worker.log.read_text(errors="replace") for worker in self.workers)

    # ---- the end

    def finish(self, in_order: bool = False) -> Figures:
        """Stops the feeder, waits until all is worked, stops the workers in good order, and does the books."""
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
        figures = books.audit(
            set(range(count)) - self.gone,
            self.calls(),
            {stage: self.read(topic) for stage, topic in enumerate(self.topics)},
            self.read(self.out),
            self.faults,
            WINDOW,
            in_order,
        )
        figures.problems[:0] = problems
        return figures

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

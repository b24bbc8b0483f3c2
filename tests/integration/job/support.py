"""A task's topics on the real cluster, a worker in a thread or a process of its own, and what it leaves behind."""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

import flux
from flux.adapters.confluent import ConfluentAdapter
from flux.config import AdapterChoice
from flux.core.stage import Stage

SECONDS = 60.0
"""How long a test waits for what must happen."""

_MADE_JUST_NOW = (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_COORDINATOR)

Record = tuple[Any, ...]
"""(value, key=None, headers=None, partition=None)"""


def wait_for(true: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def own(message: Any) -> list[tuple[str, bytes | None]]:
    """A record's headers but those that flux adds."""
    return [pair for pair in message.headers() or [] if not pair[0].startswith("flux-")]


def flux_headers(message: Any) -> dict[str, bytes]:
    """The headers that flux adds, each at most once."""
    pairs = [pair for pair in message.headers() or [] if pair[0].startswith("flux-")]
    assert len(pairs) == len(dict(pairs)), f"flux's headers pile up: {pairs}"
    return dict(pairs)


def without_nul(partition: TopicPartition) -> TopicPartition:
    """confluent-kafka may append one to the string beside a position."""
    return TopicPartition(
        partition.topic, partition.partition, partition.offset, (partition.metadata or "").rstrip("\0")
    )


@attrs.frozen
class Running:
    worker: flux.Worker
    thread: threading.Thread

    @property
    def ended(self) -> bool:
        return not self.thread.is_alive()


class Lab:
    def __init__(
        self,
        bootstrap: str,
        admin: AdminClient,
        unique: Callable[[], str],
        make_topic: Callable[..., str],
        read_all: Callable[..., list[Any]],
        directory: Path,
    ) -> None:
        self.bootstrap = bootstrap
        self.admin = admin
        self.unique = unique
        self.make_topic = make_topic
        self.read = read_all
        self.directory = directory
        self.processes: list[subprocess.Popen[bytes]] = []

    # ---- tasks and topics

    def task(
        self, handler: Callable[[flux.Message], Any], *, partitions: int = 1, topics: bool = True, **given: Any
    ) -> flux.Task:
        """A task of its own topic and group; waits and commits are short unless told otherwise."""
        settings: dict[str, Any] = {
            "topic": self.unique(),
            "group_id": f"g{secrets.token_hex(4)}",
            "wait": 0.1,
            "retries": 1,
            "offset_commit_interval": 0.1,
        } | given
        topic, group = settings.pop("topic"), settings.pop("group_id")
        task = flux.task(topic=topic, group_id=group, **settings)(handler)
        if topics:
            for stage in task.policy().stages:
                self.make_topic(partitions, stage.topic)
        return task

    def stage(self, task: type[flux.Task] | flux.Task, number: int) -> Stage:
        return task.policy().stages[number]

    def dead_topic(self, task: type[flux.Task] | flux.Task) -> str:
        return self.stage(task, task.retries + 1).topic

    def dead(self, task: type[flux.Task] | flux.Task) -> list[Any]:
        return self.read(self.dead_topic(task))

    # ---- plain clients

    def write(self, topic: str, *records: Record | bytes) -> None:
        """By a client that knows nothing of flux, all acknowledged."""
        failures: list[Any] = []
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, "message.max.bytes": 2_000_000})
        for record in records:
            fields = record if isinstance(record, tuple) else (record,)
            value, key, headers, partition = (*fields, None, None, None)[:4]
            producer.produce(
                topic,
                value,
                key,
                -1 if partition is None else partition,
                headers=headers,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
        assert producer.flush(SECONDS) == 0
        assert not failures

    def write_at(self, topic: str, timestamp: int, value: bytes) -> None:
        """`timestamp`: milliseconds since the epoch, whatever the topic makes of it."""
        producer = Producer({"bootstrap.servers": self.bootstrap})
        producer.produce(topic, value, timestamp=timestamp)
        assert producer.flush(SECONDS) == 0

    def committed_offsets(self, group: str, topic: str) -> dict[int, Any]:
        """What the group has committed, by partition: `offset` and `metadata`."""
        numbers = self.admin.list_topics(topic, timeout=SECONDS).topics[topic].partitions
        # an admin client that asks this while a coordinator is being found ends the process (librdkafka 2.16)
        member = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group})
        try:
            found = member.committed([TopicPartition(topic, number) for number in numbers], SECONDS)
        except KafkaException as error:
            if error.args[0].code() not in (
                KafkaError.NOT_COORDINATOR,
                KafkaError.COORDINATOR_NOT_AVAILABLE,
                KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
            ):
                raise
            return {}  # the group's coordinator is being made
        finally:
            member.close()
        return {p.partition: position for p in found if p.offset >= 0 for position in (without_nul(p),)}

    def members(self, group: str) -> list[Any]:
        """Asked again while the coordinator is being made."""
        until = time.monotonic() + SECONDS
        while True:
            try:
                return list(self.admin.describe_consumer_groups([group])[group].result(SECONDS).members)
            except KafkaException as error:
                if error.args[0].code() not in _MADE_JUST_NOW or time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def commit(self, group: str, topic: str, positions: dict[int, int], metadata: str = "") -> None:
        """As an operator does for a group without members."""
        partitions = [TopicPartition(topic, partition, offset, metadata) for partition, offset in positions.items()]
        asked = self.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, partitions)])
        assert all(p.error is None for p in asked[group].result(SECONDS).topic_partitions or [])

    def ends(self, topic: str) -> dict[int, int]:
        partitions = self.admin.list_topics(topic, timeout=SECONDS).topics[topic].partitions
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        until = time.monotonic() + SECONDS
        while True:
            asked = self.admin.list_offsets({TopicPartition(topic, number): latest for number in partitions})
            try:
                return {p.partition: future.result(SECONDS).offset for p, future in asked.items()}
            except KafkaException:  # a new partition has no leader at first
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def worked(self, task: type[flux.Task] | flux.Task, number: int) -> bool:
        """Whether everything in that stage's topic is done and committed."""
        stage = self.stage(task, number)
        ends, positions = self.ends(stage.topic), self.committed_offsets(stage.group, stage.topic)
        return all(end == 0 or (p in positions and positions[p].offset >= end) for p, end in ends.items())

    def settled(self, task: type[flux.Task] | flux.Task, last: int | None = None) -> bool:
        """Whether every stage up to `last` (None: the last retry) is worked. In the order in which records move."""
        return all(self.worked(task, n) for n in range((task.retries if last is None else last) + 1))

    def settle(self, task: type[flux.Task] | flux.Task, last: int | None = None, seconds: float = SECONDS) -> None:
        wait_for(lambda: self.settled(task, last), f"every stage of {task.topic} is worked", seconds)

    # ---- workers

    @contextmanager
    def running(
        self, *tasks: type[flux.Task] | flux.Task, adapter: AdapterChoice = None, code: int = 0, **options: Any
    ) -> Iterator[Running]:
        """A worker in a thread; stopped at the end, which must give exit code `code`."""
        worker = flux.Worker(*tasks, adapter=adapter or ConfluentAdapter(self.bootstrap), **options)
        ends: list[Any] = []

        def run() -> None:
            try:
                ends.append(worker.run())
            except BaseException as error:
                ends.append(error)

        thread = threading.Thread(target=run, name="worker", daemon=True)
        thread.start()
        try:
            yield Running(worker, thread)
        finally:
            worker.stop()
            thread.join(60)
        assert not thread.is_alive(), "the worker did not stop"
        assert ends == [code]

    def work(self, task: type[flux.Task] | flux.Task, **options: Any) -> None:
        """Runs a worker until every stage is worked."""
        with self.running(task, **options):
            self.settle(task)

    # ---- processes

    def load(self, source: str, **names: object) -> Path:
        """A file with a task, `names` being its first lines."""
        path = self.directory / f"tasks_{len(list(self.directory.iterdir()))}.py"
        lines = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        path.write_text(lines + source)
        return path

    def process(
        self, path: Path, task: str, *options: str, query: str = "", scheme: str = "confluent"
    ) -> subprocess.Popen[bytes]:
        """`flux process` in a process of its own; what it logs is in `path` + ".log"."""
        command = [sys.executable, "-c", "from flux.cli.main import main; main()", "process"]
        adapter = f"{scheme}://{self.bootstrap}{query}"
        with Path(f"{path}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--load", str(path), "--adapter", adapter, *options, task],
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

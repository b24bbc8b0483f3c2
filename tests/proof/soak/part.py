"""One part of a piece: one adapter, either with rebalances, failures, outages and replays, or at full speed."""

from __future__ import annotations

import json
import os
import secrets
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
from brokers.jars import Node
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from flux.config import adapter_from_url
from flux.core.errors import BrokerError
from flux.operate.dlq.replay import Replay
from flux.operate.dlq.replay_plan import ReplayOptions, plan_replay
from proof.soak.marks import Marks
from proof.soak.memory import resident
from proof.soak.work import Given, Watch, guest_report, task_of

RATE = 1_000
"""Records a second beside rebalances."""
PARTITIONS = 4
OUTAGE = 3.0
"""Seconds, below the group's session timeout and the deadlines of deliveries."""
_OUTAGES, _REPLAYS = 60.0, 30.0  # seconds between two
_DRAINS = 120.0
_URLS = {
    "confluent": "confluent://{}?heartbeat.interval.ms=200&session.timeout.ms=10000",
    "aiokafka": "aiokafka://{}?heartbeat_interval_ms=200&session_timeout_ms=10000",
}
_RETENTION = {"segment.bytes": "16777216", "retention.bytes": "134217728"}


@attrs.frozen
class Sample:
    """`at`: seconds since the part began. Counts are since then too. `guest_in_use`: MB, between two of its workers."""

    at: float
    memory: float
    threads: int
    descriptors: int
    lag: int
    calls: int
    failures: int
    moves: int
    p50: float | None
    p99: float | None
    guest_memory: float | None = None
    guest_threads: int | None = None
    guest_descriptors: int | None = None
    guest_in_use: float | None = None


@attrs.define
class Found:
    name: str
    seconds: float = 0.0
    records: int = 0
    rebalances: int = 0
    outages: int = 0
    replayed: int = 0
    repeated: int = 0
    problems: list[str] = attrs.field(factory=list)
    samples: list[Sample] = attrs.field(factory=list)


class Part:
    def __init__(self, node: Node, adapter: str, fast: bool, seconds: float, directory: Path) -> None:
        self._node = node
        self._fast = fast
        self._seconds = seconds
        self.found = Found(f"{adapter}, {'full speed' if fast else 'rebalances'}")
        self._directory = directory / self.found.name.replace(", ", "-").replace(" ", "-")
        self._directory.mkdir()
        name = secrets.token_hex(3)
        self._report = self._directory / "report"
        self._marks = Marks(self._directory / "marks", 1 if fast else round(RATE * seconds) + RATE)
        url = _URLS[adapter].format(node.bootstrap)
        files = (str(self._directory / "marks"), str(self._report))
        self._given = Given(f"soak-{name}", f"g{name}", f"soak-{name}-out", url, *files)
        self._admin = AdminClient({"bootstrap.servers": node.bootstrap, "log_level": 0})
        topics = [NewTopic(topic, PARTITIONS, 1, config=_RETENTION) for topic in (self._given.topic, self._given.out)]
        for created in self._admin.create_topics(topics).values():
            created.result(30)

    def run(self) -> Found:
        began = time.monotonic()
        children = {"worker": self._work("fast" if self._fast else "worker"), "feeder": self._feed()}
        if not self._fast:
            children["guest"] = self._work("guest")
        try:
            with ThreadPoolExecutor(1) as pool:
                self._watch(children, pool, began + self._seconds)
            for name in ("guest", "feeder"):
                if name in children:
                    self._end(name, children[name])
            if not self.found.problems:
                self._drain()
            self._end("worker", children["worker"])
        finally:
            self._node.go_on()
            for child in children.values():
                if child.poll() is None:
                    child.kill()
                child.wait()
        found = self.found
        found.records = self._marks.fed
        found.rebalances = _generations(self._node.bootstrap, self._given.group)
        found.repeated = self._marks.done - self._marks.fed if self._fast else self._marks.repeated()
        found.seconds = time.monotonic() - began
        return found

    def _watch(self, children: Mapping[str, subprocess.Popen[bytes]], pool: ThreadPoolExecutor, until: float) -> None:
        began = time.monotonic()
        outage_at = began + min(_OUTAGES / 2, self._seconds / 2)
        replay_at = began + min(_REPLAYS, self._seconds / 3)
        resumes_at = None
        replaying: Future[None] | None = None
        while (now := time.monotonic()) < until or resumes_at is not None:
            if not self._fast:
                if resumes_at is None and outage_at <= now < until - 2 * OUTAGE:
                    self._node.hang()
                    self.found.outages += 1
                    resumes_at, outage_at = now + OUTAGE, now + _OUTAGES
                elif resumes_at is not None and now >= resumes_at:
                    self._node.go_on()
                    resumes_at = None
                if now >= replay_at and (replaying is None or replaying.done()):
                    if replaying is not None:
                        replaying.result()
                    replaying, replay_at = pool.submit(self._replay), now + _REPLAYS
            for name, child in children.items():
                if child.poll() is not None:
                    self.found.problems.append(f"{self.found.name}: {name} ended with {child.returncode}")
                    return
            self._sample(now - began, children)
            time.sleep(max(0.0, now + 1 - time.monotonic()))

    def _sample(self, at: float, children: Mapping[str, subprocess.Popen[bytes]]) -> None:
        line = _last_line(self._report)
        if line is None:
            return
        reported = json.loads(line)
        lag = self._marks.fed - self._marks.done if self._fast else self._marks.untouched()
        in_use = _last_line(Path(guest_report(self._given)))
        used = None if in_use is None else float(in_use)
        guest = _resources(children["guest"].pid) if "guest" in children else (None, None, None)
        sample = Sample(at, *_resources(children["worker"].pid), lag, *_in_order(reported), *guest)
        self.found.samples.append(attrs.evolve(sample, guest_in_use=used))

    def _replay(self) -> None:
        """What an outage stops, the next one goes on with."""
        adapter = adapter_from_url(self._given.adapter)
        admin = adapter.admin()
        try:
            policy = task_of(self._given, self._marks, [], Watch()).policy()
            result = Replay(plan_replay(admin, policy, ReplayOptions()), adapter, admin).run()
            self.found.replayed += result.replayed
        except BrokerError as error:
            print(f"replay: {error}", file=sys.stderr)
        finally:
            admin.close()

    def _drain(self) -> None:
        """Until every record is done, replayed dead letters included."""
        until, replay_at = time.monotonic() + _DRAINS, 0.0
        while self._marks.done < self._marks.fed if self._fast else self._marks.missing():
            if (now := time.monotonic()) >= until:
                missing = [self._marks.fed - self._marks.done] if self._fast else self._marks.missing()
                self.found.problems.append(f"{self.found.name}: not done after {_DRAINS:g} s: {missing[:5]}")
                return
            if not self._fast and now >= replay_at:
                self._replay()
                replay_at = now + 3
            time.sleep(0.3)

    def _end(self, name: str, child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        try:
            code: int | str = child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            code = "SIGKILL, 60 s after SIGTERM"
        if code:
            self.found.problems.append(f"{self.found.name}: {name} ended with {code}; see {self._directory}")

    def _work(self, kind: str) -> subprocess.Popen[bytes]:
        return self._start(kind, ["-m", "proof.soak.work", kind])

    def _feed(self) -> subprocess.Popen[bytes]:
        rate = 0 if self._fast else RATE
        given = self._given
        return self._start(
            "feeder", ["-m", "proof.soak.feeder", self._node.bootstrap, given.topic, str(rate), given.marks]
        )

    def _start(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "SOAK": json.dumps(attrs.asdict(self._given))}
        if not self._fast:  # else glibc's caches, one for each thread, fill for minutes
            environment["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=0"
        if name == "guest":
            environment["PYTHONMALLOC"] = "malloc"  # so that its memory in use can be read
        with (self._directory / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )


def _in_order(reported: Mapping[str, Any]) -> list[Any]:
    return [reported[name] for name in ("calls", "failures", "moves", "p50", "p99")]


def _last_line(file: Path) -> bytes | None:
    """None: there is none yet."""
    if not file.exists():
        return None
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 1000))
        lines = opened.read().split(b"\n")[:-1]
    return lines[-1] if lines else None


def _resources(pid: int) -> tuple[float, int, int]:
    """MB of resident memory, threads, descriptors; zeros if it has just ended."""
    process = Path(f"/proc/{pid}")
    try:
        threads = len(list((process / "task").iterdir()))
        return resident(process), threads, len(list((process / "fd").iterdir()))
    except OSError:
        return 0.0, 0, 0


def _generations(bootstrap: str, group: str) -> int:
    """Rebalances of a task's groups as the broker has counted them: their last generations, which it writes to
    `__consumer_offsets` (GroupMetadataKey version 2; GroupMetadataValue: version, protocol type, generation)."""
    topic = "__consumer_offsets"
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "soak-reader", "enable.partition.eof": False})
    found: dict[str, int] = {}
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        places = [TopicPartition(topic, number, 0) for number in partitions]
        left = {place.partition: consumer.get_watermark_offsets(place, timeout=30)[1] for place in places}
        consumer.assign(places)
        until = time.monotonic() + 60
        while any(left.values()) and time.monotonic() < until:
            for message in consumer.consume(1000, 1):
                partition, offset = message.partition(), message.offset()
                if message.error() or partition is None or offset is None:
                    continue
                if offset + 1 >= left[partition]:
                    left[partition] = 0
                key, value = message.key(), message.value()
                if key and value and struct.unpack_from(">h", key)[0] == 2:
                    name = key[4:].decode()
                    (length,) = struct.unpack_from(">h", value, 2)
                    (generation,) = struct.unpack_from(">i", value, 4 + max(0, length))
                    found[name] = max(found.get(name, 0), generation)
    finally:
        consumer.close()
    return sum(number for name, number in found.items() if name == group or name.startswith(f"{group}-"))

"""A machine whose time is a number, and a listener that remembers: what the tests of the in-memory broker share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flux.adapters.memory import MemoryAdapter, forget
from flux.adapters.memory.consumer import MemoryConsumer
from flux.core.errors import BrokerError
from flux.core.monitoring.duties import Duty
from flux.core.ports import (
    BEGINNING,
    ConsumerSettings,
    PollResult,
    ProducerRecord,
    ProducerSettings,
    Record,
    Thread,
    TopicPartition,
)

START = 1_700_000_000.0


class ScriptedSystem:
    """One thread. Whoever waits makes time pass, and what the script planned for that time happens meanwhile."""

    def __init__(self) -> None:
        self.time = START
        self.script: list[tuple[float, Callable[[], object]]] = []
        self.spawned: list[Callable[[], None]] = []
        self.waits = 0
        self.duties: list[Duty] = []

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        self.script.append((self.time + seconds, action))
        self.script.sort(key=lambda planned: planned[0])

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.now()

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def condition(self) -> ScriptedCondition:
        return ScriptedCondition(self)

    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        self.spawned.append(target)
        return EndedThread()

    def run_spawned(self) -> None:
        while self.spawned:
            self.spawned.pop(0)()

    def randint(self, low: int, high: int) -> int:
        return low

    def watch(self, duty: Duty) -> None:
        self.duties.append(duty)


class EndedThread:
    name = "ended"

    def join(self, timeout: float | None = None) -> None:
        pass

    def is_alive(self) -> bool:
        return False


class ScriptedCondition:
    def __init__(self, system: ScriptedSystem) -> None:
        self.system = system
        self.held = False
        self.notified = False

    def __enter__(self) -> None:
        assert not self.held, "deadlock: taken twice by the one thread there is"
        self.held = True

    def __exit__(self, *exc: object) -> None:
        self.held = False

    def notify(self, n: int = 1) -> None:
        assert self.held
        self.notified = True

    notify_all = notify

    def wait(self, timeout: float | None = None) -> bool:
        assert self.held
        assert timeout is not None
        assert timeout > 0
        self.system.waits += 1
        deadline = self.system.time + timeout
        self.held, self.notified = False, False
        while not self.notified and self.system.script and self.system.script[0][0] <= deadline:
            at, action = self.system.script.pop(0)
            self.system.time = max(self.system.time, at)
            action()
        if not self.notified:
            self.system.time = max(self.system.time, deadline)
        self.held = True
        return self.notified


class Remembering:
    """A listener that starts at the committed position or the beginning. `on_revoked` runs inside `revoked`."""

    def __init__(self) -> None:
        self.consumer: MemoryConsumer | None = None
        self.heard: list[tuple[str, list[int]]] = []
        self.told_of_nothing = 0
        self.start: int = BEGINNING
        self.on_assigned: Callable[[], object] = lambda: None
        self.on_revoked: Callable[[], object] = lambda: None

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        if not partitions:
            self.told_of_nothing += 1
            return {}
        self.heard.append(("assigned", [p.partition for p in partitions]))
        self.on_assigned()
        assert self.consumer is not None
        positions = self.consumer.committed(partitions, 1)
        return {p: position.offset if position else self.start for p, position in positions.items()}

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.heard.append(("revoked", [p.partition for p in partitions]))
        self.on_revoked()

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.heard.append(("lost", [p.partition for p in partitions]))


class Kit:
    """A cluster of its own, and short ways to use it."""

    def __init__(self, partitions: int = 1, *, auto_create: bool = True) -> None:
        forget("kit")
        self.system = ScriptedSystem()
        self.adapter = MemoryAdapter(
            "kit",
            system=self.system,
            default_partitions=partitions,
            auto_create=auto_create,
        )
        self.broker = self.adapter.broker
        self.producer = self.adapter.producer(ProducerSettings(delivery_timeout=30))
        self.admin = self.adapter.admin()
        self.acknowledged: list[tuple[BrokerError | None, Record]] = []

    def write(self, *records: ProducerRecord | bytes, topic: str = "t") -> list[tuple[BrokerError | None, Record]]:
        """Returns what was acknowledged inside the call."""
        before = len(self.acknowledged)
        outgoing = [record if isinstance(record, ProducerRecord) else ProducerRecord(record) for record in records]
        self.producer.write(topic, outgoing, lambda error, record: self.acknowledged.append((error, record)))
        return self.acknowledged[before:]

    def consumer(self, topic: str = "t", group: str = "g") -> tuple[MemoryConsumer, Remembering]:
        listener = Remembering()
        listener.consumer = self.adapter.consumer(ConsumerSettings(topic, group), listener)
        return listener.consumer, listener


def values(polled: PollResult) -> list[bytes | None]:
    return [record.value() for batch in polled.batches for record in batch.records]


def tp(partition: int, topic: str = "t") -> TopicPartition:
    return TopicPartition(topic, partition)

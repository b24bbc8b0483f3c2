"""The transactional client of the simulated cluster: slow, refused, or the last that its process does, at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flux.adapters.memory.group import MemoryMembership
from flux.adapters.memory.transactions import MemoryTransactions
from flux.core.errors import BrokerError
from flux.core.ports import CommittedOffset, Membership, ProducerRecord, TopicPartition, TransactionSettings
from simulation.machine import Process

if TYPE_CHECKING:
    from simulation.world import World


class TransactionalClient:
    """`flux.core.ports.TransactionPort`."""

    def __init__(self, world: World, settings: TransactionSettings) -> None:
        self._world = world
        self._inner = MemoryTransactions(world.cluster, settings)
        self._process: Process = world.machine.current.process  # type: ignore[union-attr]
        self._refused: list[tuple[str, ProducerRecord, BrokerError]] = []
        self._failed = False

    def start(self, timeout: float) -> None:
        with self._step("start"):
            self._inner.start(timeout)

    def partitions(self, topic: str, timeout: float) -> int:
        with self._step("partitions"):
            return self._inner.partitions(topic, timeout)

    def begin(self) -> None:
        self._refused.clear()
        self._world.truth.visible.writing.add(self._process)
        with self._step("begin"):
            self._inner.begin()

    def write(
        self,
        topic: str,
        records: Sequence[ProducerRecord],
        refused: Callable[[int, BrokerError], None] | None = None,
    ) -> None:
        self._world.truth.visible.handed(self._process, topic, records)

        def told(index: int, error: BrokerError) -> None:
            self._refused.append((topic, records[index], error))
            assert refused is not None
            refused(index, error)

        with self._step("write"):
            self._inner.write(topic, records, None if refused is None else told)

    def flush(self, timeout: float) -> None:
        with self._step("flush"):
            self._inner.flush(timeout)

    def add_offsets(
        self, membership: Membership, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float
    ) -> None:
        assert isinstance(membership, MemoryMembership)
        with self._step("add_offsets"), self._world.truth.visible.adding(membership):
            self._inner.add_offsets(membership, offsets, timeout)

    def commit(self, timeout: float) -> None:
        with self._step("commit"):
            self._inner.commit(timeout)
        self._world.truth.visible.writing.discard(self._process)

    def close(self) -> None:
        """Records that were refused, and nothing else: the calls that produced them fail."""
        self._world.machine.point()
        if not self._failed:
            for topic, record, error in self._refused:
                self._world.truth.visible.refused(topic, record, error)
        self._refused.clear()
        self._world.truth.visible.writing.discard(self._process)
        self._inner.close()

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        world, visible = self._world, self._world.truth.visible
        self._pass(name, after=False)
        try:
            with visible.inside():
                yield
        except BrokerError as error:
            self._failed = True
            visible.failed(self._process, name, error)
            raise
        self._pass(name, after=True)
        world.machine.point()

    def _pass(self, name: str, *, after: bool) -> None:
        machine, latency = self._world.machine, self._world.scenario.latency
        machine.point()
        if latency and name not in ("begin", "partitions"):
            machine.park(latency * self._world.random.random())
        if self._world.failures.ends_here(self._process, name, after):
            # nobody comes back to a process that is dead; one that rejoins has its partitions again by then
            machine.park(2 * self._world.random.random())

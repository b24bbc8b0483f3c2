"""The thread that writes the transactions of all tasks of one cluster in this process, and how tasks share it.

Calls go on while a transaction is committed. Each transaction takes what all stages have, because one commit costs
about as much for many groups as for one.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import cast

import attrs

from flux.consuming.coordinator import Coordinator
from flux.consuming.coordinator.sealing import Part, Sealing
from flux.consuming.transaction_writer import Refused, TransactionWriter
from flux.core.errors import BrokerError, ConfigurationError
from flux.core.monitoring.duties import Duty
from flux.core.ports import (
    Cluster,
    InDoubt,
    ProducerSettings,
    System,
    Thread,
    TransactionalCluster,
    TransactionSettings,
)
from flux.system.transactional_ids import TransactionalId

_IDLE = 5.0  # longest wait in seconds for a request
_GRACE = 5.0


class TransactionThread:
    """Of one cluster. Tasks join and leave it; it ends with the last."""

    def __init__(
        self, adapter: TransactionalCluster, name: TransactionalId, settings: ProducerSettings, system: System
    ) -> None:
        self._name = name
        self._system = system
        self._changed = system.condition()
        self._wanted = False
        self._ended = False
        self._tasks: dict[Sealing, Callable[[str], int | None]] = {}
        """Each with its topics' limits, as given to `join`."""
        self._writer = TransactionWriter(
            adapter,
            TransactionSettings(name.id, compression=settings.compression, max_batch_bytes=settings.max_batch_bytes),
            name.another,
            self._limit,
            system,
            lambda: not self._ended,
        )
        self._thread: Thread | None = None
        self.duty = Duty(f"{adapter.cluster}: its transactions")

    def warm_up(self) -> None:
        """Connects, unless a task has joined already. Raises BrokerError."""
        if self._thread is None:
            self._writer.warm_up()

    def join(self, task: Sealing, limit: Callable[[str], int | None]) -> None:
        """`limit`: the largest record of a topic in bytes, if known."""
        with self._changed:
            self._tasks[task] = limit
            if self._thread is None:
                self._system.watch(self.duty)
                self._thread = self._system.spawn("flux-transactions", self._run)

    def leave(self, task: Sealing | None) -> bool:
        """Returns whether no other task uses it: then it waits briefly for the last transaction, and ends."""
        with self._changed:
            if task is not None:
                self._tasks.pop(task, None)
            if self._tasks:
                return False
            self._ended = True
            self._changed.notify_all()
        if self._thread is None:
            self._release()
        else:
            self._thread.join(_GRACE)
        return True

    def request(self) -> None:
        """Something is due. Does not wait."""
        with self._changed:
            if not self._wanted:
                self._wanted = True
                self._changed.notify_all()

    def _limit(self, topic: str) -> int | None:
        limits = list(self._tasks.values())
        return next((found for limit in limits if (found := limit(topic)) is not None), None)

    def _run(self) -> None:
        try:
            while True:
                self.duty.rest()
                with self._changed:
                    while not (self._wanted or self._ended):
                        self._changed.wait(_IDLE)
                    if self._ended:
                        break
                    self._wanted = False
                    tasks = list(self._tasks)
                self._step()
                self._transact([part for task in tasks for part in task.parts()])
        except (Exception, KeyboardInterrupt, SystemExit) as error:  # nobody else would notice it
            for task in list(self._tasks):
                task.fail(error)
            self._release()
            if issubclass(type(error), KeyboardInterrupt):
                raise
        else:
            self._release()

    def _release(self) -> None:
        self.duty.end()
        self._writer.close()
        self._name.release()

    def _step(self) -> None:
        self.duty.step(get_ident())

    def _transact(self, parts: list[Part]) -> None:
        if not parts:
            return
        try:
            self._writer.write(parts, self._step)
        except Refused as refused:
            error = BrokerError("a topic refused a record of the transaction")
            for part in parts:
                forwards = {each: why for each, why in refused.forwards.items() if each in part.sealed.forwards}
                outputs = [(each, why) for each, why in refused.outputs.items() if each in part.sealed.outputs]
                part.task.failed(part, error, forwards, outputs)
        except BrokerError as error:
            for part in parts:
                part.task.failed(part, error)
            if issubclass(type(error), InDoubt) and not self._ended:
                raise
        else:
            for part in parts:
                part.task.committed(part)


@attrs.define(eq=False)
class TransactionThreads:
    """Those of a process, by cluster. `claimed`: claims a transactional id that begins with its argument."""

    system: System
    claimed: Callable[[str], TransactionalId] = TransactionalId
    _threads: dict[str, TransactionThread] = attrs.field(factory=dict)

    def prepare(self, task: str, adapter: Cluster, group: str, settings: ProducerSettings) -> None:
        """Connects. `settings`: of forwarded copies. Raises BrokerError, and ConfigurationError for a client whose
        transactions groups cannot fence."""
        if not hasattr(adapter, "transactions"):
            raise ConfigurationError(
                f"{task}: exactly_once needs confluent://, not {adapter.cluster}: its client commits offsets in"
                " transactions without the generation of its group"
            )
        found = self._threads.get(adapter.cluster)
        if found is None:
            name = self.claimed(f"flux-{group}")
            found = TransactionThread(cast(TransactionalCluster, adapter), name, settings, self.system)
            self._threads[adapter.cluster] = found
        found.warm_up()

    def join(self, cluster: str, coordinator: Coordinator, limit: Callable[[str], int | None]) -> None:
        """A task begins. `limit`: the largest record of a topic in bytes, if known."""
        thread = self._threads[cluster]
        thread.join(coordinator.sealing, limit)
        for runtime in coordinator.runtimes:
            runtime.transact = thread.request

    def leave(self, coordinator: Coordinator | None) -> None:
        """A task has ended, or was never begun."""
        for cluster, thread in list(self._threads.items()):
            if thread.leave(None if coordinator is None else coordinator.sealing):
                del self._threads[cluster]

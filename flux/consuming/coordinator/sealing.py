"""A task's part in transactions: seals what its stages have, and reports to them how the transaction ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from flux.consuming.coordinator.common import Shared, StageRuntime
from flux.consuming.coordinator.membership import Ending
from flux.consuming.coordinator.procedures import Procedures
from flux.consuming.coordinator.verdicts import Products
from flux.core.engine.forwarding import Forward
from flux.core.engine.transactions import CallOutputs, Sealed
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, Membership, TopicPartition


@attrs.frozen(eq=False)
class Part:
    """What one stage has in a transaction, and its membership when it was sealed."""

    task: Sealing
    runtime: StageRuntime
    membership: Membership
    sealed: Sealed

    def __str__(self) -> str:
        return self.runtime.engine.stage.group


class Sealing:
    def __init__(self, common: Shared, procedures: Procedures, products: Products, ending: Ending) -> None:
        self._common = common
        self._procedures = procedures
        self._products = products
        self._ending = ending

    def parts(self) -> list[Part]:
        """Seals what waits for a transaction in each stage. The membership is read first: if a rebalance comes between,
        the group refuses it, and nothing is committed for partitions that are gone."""
        parts: list[Part] = []
        for runtime in self._common.runtimes:
            membership = runtime.membership()
            if membership is None:
                continue
            with self._common.lock:
                sealed = runtime.engine.transactions.seal(runtime.now_locked())
            if sealed is not None:
                parts.append(Part(self, runtime, membership, sealed))
        return parts

    def committed(self, part: Part) -> None:
        runtime, common = part.runtime, self._common
        with common.lock:
            counted = runtime.engine.transactions.committed(part.sealed, runtime.now_locked())
            self._procedures.forwarded_locked(part.sealed.forwards)
            if common.hook_dispatch.moves:
                runtime.moved += counted
            common.wake_locked(1)
        if runtime.moved:
            self._procedures.report_forwarded(runtime)
        if part.sealed.offsets:
            self._procedures.report_commit(runtime, part.sealed.offsets, None)

    def failed(
        self,
        part: Part,
        error: BrokerError,
        forwards: Mapping[Forward, BrokerError] | None = None,
        outputs: Sequence[tuple[CallOutputs, Exception]] = (),
    ) -> None:
        """The transaction was not committed. `forwards` and `outputs`: those of this part that topics refuse, if a
        refused record of any part was the reason: the forwards are retried later, and the calls of the outputs fail."""
        runtime, common = part.runtime, self._common
        with common.lock:
            transactions = runtime.engine.transactions
            for refused, _ in outputs:
                transactions.withdraw(part.sealed, refused)
            blamed = forwards is not None
            transactions.put_back(part.sealed, error, runtime.now_locked(), forwards, blamed=blamed)
            common.wake_locked(1)
        for refused, why in outputs:
            self._products.settled(runtime, refused.entries, why)
        if part.sealed.offsets and not blamed:
            self._procedures.report_commit(runtime, part.sealed.offsets, error)
        if error.fault is Fault.METADATA:
            self._ending.fail(error)

    def has_lapsed(self, part: Part) -> bool:
        """Whether a partition of it is gone."""
        with self._common.lock:
            return part.sealed.has_lapsed

    def owned(self, part: Part) -> dict[TopicPartition, tuple[CommittedOffset, CommittedOffset | None]]:
        """The partitions of a part that are still assigned: the offset that the transaction commits, and the one that
        was committed before."""
        sealed = part.sealed
        with self._common.lock:
            return {partition: (sealed.offsets[partition], sealed.before[partition]) for partition in sealed.owned}

    def fail(self, error: BaseException) -> None:
        """The transactions cannot go on: the worker ends."""
        self._ending.fail(error)

"""What readers of committed transactions see of tasks that keep the order through retries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flux.core.errors import BrokerError
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition
from simulation.machine import Process
from simulation.records import DEAD, PRODUCTS, Call
from simulation.visible import Visible

if TYPE_CHECKING:
    from simulation.ordered import OrderedTruth


class OrderedVisible(Visible):
    """A record has outputs of one of its calls, in whatever stage, and one dead letter. Copies are written of records
    that were not called too."""

    _truth: OrderedTruth

    def __init__(self, truth: OrderedTruth) -> None:
        super().__init__(truth)
        self._calls: dict[tuple[str, int, int], Call] = {}
        """By origin, the call whose outputs are visible."""

    def handed(self, process: Process, topic: str, records: Sequence[ProducerRecord]) -> None:
        if topic == PRODUCTS:
            super().handed(process, topic, records)

    def refused(self, topic: str, record: ProducerRecord, error: BrokerError) -> None:
        if topic == PRODUCTS:
            super().refused(topic, record, error)

    def _gone(self, record: Any) -> None:
        pass

    def _copy(self, record: Any, offsets: Mapping[tuple[str, TopicPartition], CommittedOffset]) -> None:
        truth = self._truth
        if record.topic().endswith("-keys"):
            return
        dead = set(truth.dead)
        copy = truth.visible_copy(record)
        copy.acked = True
        if truth.once and copy.stage == DEAD and truth.origin(copy) in dead:
            raise truth.broken(f"{copy} is the second dead letter of its record")

    def _effect(self, call: Call, offsets: Mapping[tuple[str, TopicPartition], CommittedOffset]) -> None:
        truth = self._truth
        other = self._calls.setdefault(truth.origin(call.copy), call)
        if other is not call and truth.once:
            raise truth.broken(f"outputs of {other} and of {call}, of one record, are visible")
        super()._effect(call, offsets)

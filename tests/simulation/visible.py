"""What readers of committed transactions see: each output and each forwarded copy once, with its committed offset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from flux.adapters.memory.coordinator import OpenTransaction, TransactionCoordinator
from flux.adapters.memory.group import MemoryMembership
from flux.core.engine.offset_tracker import read_metadata
from flux.core.errors import BrokerError
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition
from simulation.machine import Process, Thread
from simulation.records import PRODUCTS, Call, Copy, Epoch, is_own

if TYPE_CHECKING:
    from simulation.truth import Truth

_LONGEST_RETRY = 60.0
"""Seconds after a failure, or an outage, in which the next transaction may have to wait."""


@attrs.frozen
class Added:
    """One offset of a transaction. `known`: what had happened before this step was told to the engine before it was
    sealed."""

    consumer: Any
    epoch: Epoch | None
    known: int


class Visible:
    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._inside: set[Thread | None] = set()
        self._adding: dict[Thread | None, MemoryMembership] = {}
        self._added: dict[tuple[str, TopicPartition], Added] = {}
        self._products: set[bytes] = set()
        self._effects: dict[tuple[Copy, str], Call] = {}
        """By group too: that of the dead letters is named after the number of retries, and one group does not know what
        another one has done."""
        """By copy of a record: the call of which something is visible."""
        self._failed_at: defaultdict[Process, float] = defaultdict(lambda: -_LONGEST_RETRY)
        self.outage_at = -_LONGEST_RETRY
        self.writing: set[Process] = set()
        """Those that have sealed a transaction and not ended it."""

    # ---- a client

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What the running thread does here is part of a transaction."""
        thread = self._truth.machine.current
        self._inside.add(thread)
        try:
            yield
        finally:
            self._inside.discard(thread)

    @property
    def is_inside(self) -> bool:
        return self._truth.machine.current in self._inside

    @contextmanager
    def adding(self, membership: MemoryMembership) -> Iterator[None]:
        thread = self._truth.machine.current
        self._adding[thread] = membership
        try:
            yield
        finally:
            del self._adding[thread]

    def handed(self, process: Process, topic: str, records: Sequence[ProducerRecord]) -> None:
        """A transaction begins to write these."""
        forwards = self._truth.forwards
        for record in records:
            if self._truth.stage_of(topic) is not None:
                call = forwards.given(process, topic, record)
                if call.forward != "acked":
                    call.forward = "flying"
            else:
                assert record.key is not None
                forwards.check_product(process, record.key)
                if record.key not in self._products:
                    forwards.mark_product(record.key, "flying")

    def refused(self, topic: str, record: ProducerRecord, error: BrokerError) -> None:
        """Its topic refuses a record, and nothing of the transaction is committed."""
        forwards = self._truth.forwards
        if self._truth.stage_of(topic) is not None:
            forwards.refused(forwards.given(None, topic, record), error)
            return
        call = forwards.tagged(record.key)
        for each in call.batch or (call,):
            for key in each.products:
                each.products[key] = "failed"
            each.settled_at = self._truth.machine.steps

    def failed(self, process: Process, step: str, error: BrokerError) -> None:
        self._truth.machine.touch()
        self._truth.note(f"a transaction fails at {step}: {type(error).__name__}, {error.fault.value}", process)
        self._failed_at[process] = self._truth.machine.time

    def hampered(self, process: Process) -> bool:
        """Whether a fault may delay the transactions of a process."""
        since = max(self._failed_at[process], self.outage_at)
        return not self._truth.cluster.available or self._truth.machine.time - since < _LONGEST_RETRY

    # ---- the broker

    def added(self, at: TopicPartition, consumers: Sequence[Any]) -> bool:
        """A committed offset becomes part of a transaction, if the running thread writes one."""
        membership = self._adding.get(self._truth.machine.current)
        if membership is None:
            return False
        consumer = next(each for each in reversed(consumers) if each.joined(membership.member))
        if self._truth.cluster.group(membership.group, at.topic).owner.get(at.partition) is not membership.member:
            raise self._truth.broken(f"a transaction of {consumer.process.name} has {at}, which is not its own")
        epoch = self._truth.epochs.get((consumer.process, at))
        self._added[membership.group, at] = Added(consumer, epoch, consumer.sealed.get(at, 0))
        return True

    def ended(self, name: str, transaction: OpenTransaction, written: Sequence[Any], commits: bool) -> None:
        truth = self._truth
        truth.machine.touch()
        thread = truth.machine.current
        how = "committed" if commits else "aborted"
        truth.counted[f"transactions {how}"] += 1
        truth.note(f"a transaction of {name} is {how}", None if thread is None else thread.process)
        if not commits:
            for record in written:
                self._gone(record)
            return
        for record in written:
            if record.topic() == PRODUCTS:
                self._product(record, transaction.offsets)
            else:
                self._copy(record, transaction.offsets)
        for (group, at), offset in transaction.offsets.items():
            added = self._added[group, at]
            truth.stored(added.consumer, at, offset, added)

    # ---- what is visible

    def _gone(self, record: Any) -> None:
        if record.topic() == PRODUCTS:
            return
        call = self._truth.forwards.call_of(record)
        if call is not None and call.forward == "flying":
            call.forward = ""

    def _product(self, record: Any, offsets: Mapping[tuple[str, TopicPartition], CommittedOffset]) -> None:
        truth, key = self._truth, record.key()
        call = truth.forwards.tagged(key)
        if key in self._products:
            raise truth.broken(f"the output {key!r} is visible twice")
        self._products.add(key)
        truth.forwards.check_product(call.process, key)
        if call.products.get(key) == "failed":
            raise truth.broken(f"the output {key!r} is visible, and {call} has failed")
        truth.forwards.mark_product(key, "acked")
        own = call.batch is None or is_own(key, call)
        for each in (call,) if own else [each for each in call.batch or () if each.outcome == "done"]:
            self._effect(each, offsets)

    def _copy(self, record: Any, offsets: Mapping[tuple[str, TopicPartition], CommittedOffset]) -> None:
        self._forward(self._truth.visible_copy(record), offsets)

    def _forward(self, copy: Copy, offsets: Mapping[tuple[str, TopicPartition], CommittedOffset]) -> None:
        truth, call = self._truth, copy.source
        assert call is not None
        copy.acked = True
        alike = truth.forwards.alike(call, copy.record)
        for each in alike:
            each.perhaps = True
        if alike:
            return  # of which call it is cannot be seen
        if call.forward == "acked":
            raise truth.broken(f"the forward of {call} is visible twice")
        call.forward, call.settled_at = "acked", truth.machine.steps
        self._effect(call, offsets)

    def _effect(self, call: Call, offsets: Mapping[tuple[str, TopicPartition], CommittedOffset]) -> None:
        """Something of a call has become visible, with these offsets."""
        other = self._effects.setdefault((call.copy, call.epoch.group), call)
        if other is not call:
            raise self._truth.broken(f"{call.copy} has ended twice for readers, by {other} and by {call}")
        at, offset = call.copy.at, call.copy.offset
        position = offsets.get((call.epoch.group, at))
        if position is None or not covers(position, offset):
            raise self._truth.broken(f"{call} is visible, and the transaction commits {position}")

    def check_end(self, records: Sequence[Any]) -> None:
        """`records`: what a reader of committed records finds of what calls produced."""
        truth = self._truth
        seen: defaultdict[tuple[Copy, str], dict[Call, int]] = defaultdict(dict)
        for record in records:
            call = truth.forwards.tagged(record.key())
            if is_exact(call):
                calls = seen[call.copy, call.epoch.group]
                calls[call] = calls.get(call, 0) + 1
        for copy in truth.copies.values():
            done = [call for call in copy.calls if is_exact(call) and call.verdict == "done" and call.products]
            for call in done if not copy.deleted else ():
                outputs = seen[copy, call.epoch.group]
                if call.batch is None and outputs != {call: len(call.products)}:
                    raise truth.broken(f"readers see {sum(outputs.values())} outputs of {call}: {call.products}")


class Coordinator(TransactionCoordinator):
    """Tells how each transaction ends."""

    visible: Visible

    def _end(self, name: str, *, commits: bool) -> None:
        transaction = self._open.get(name)
        firsts = {} if transaction is None else transaction.firsts
        written = [record for log, first in firsts.items() for record in log.open[first]]
        super()._end(name, commits=commits)
        if transaction is not None:
            self.visible.ended(name, transaction, written, commits)


def covers(position: CommittedOffset, offset: int) -> bool:
    """Whether a committed offset says that a record is done."""
    ranges = read_metadata(*position) or [] if position.metadata else []
    return offset < position.offset or any(start <= offset < end for start, end in ranges)


def is_exact(call: Call) -> bool:
    return bool(call.epoch.task.settings.get("exactly_once"))

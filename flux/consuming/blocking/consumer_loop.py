# Generated from flux/consuming/awaited/consumer_loop.py by `make generate`: change that, not this.
"""One stage's membership in its consumer group: performs procedures with the stage's consumer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from threading import get_ident
from typing import Any, TypeVar

from flux.consuming import effects as do
from flux.consuming import procedures
from flux.consuming.coordinator import Coordinator, Done, StageRuntime
from flux.consuming.effects import Effect, Procedure
from flux.core.engine.runs import Run
from flux.core.errors import BrokerError
from flux.core.ports import AdminPort, Adapter, ConsumerPort, TopicPartition

T = TypeVar("T")
_Outcome = tuple[Any, BrokerError | None]
logger = logging.getLogger("flux.worker")


class ConsumerLoop:
    """For one thread, or task, at a time. `rest`: waits for a fact; `write`: writes the stage's forwarded copies;
    `ask`: sends a request to the cluster; `begin`: starts a run; `cancel`: cancels calls that can be cancelled. It is
    the consumer's listener: rebalances happen inside a poll."""

    def __init__(
        self,
        coordinator: Coordinator,
        runtime: StageRuntime,
        adapter: Adapter,
        admin: AdminPort,
        *,
        rest: Callable[[float, int | None], None],
        write: Callable[[StageRuntime], None],
        ask: Callable[..., Any],
        begin: Callable[[StageRuntime, Run], None],
        cancel: Callable[[StageRuntime], None] = lambda _: None,
    ) -> None:
        self.coordinator = coordinator
        self.runtime = runtime
        self._adapter = adapter
        self._admin = admin
        self._rest = rest
        self._write = write
        self._ask = ask
        self._begin = begin
        self._now = runtime.now_locked
        self._cancel = cancel
        self._client: ConsumerPort | None = None
        self._writes: int | None = None
        """The identifier of the thread that polls, while it writes forwarded copies."""

    def _consumer(self) -> ConsumerPort:
        if self._client is None:
            self._client = self._adapter.consumer(self.runtime.settings, self)
            # only clients with transactions have it
            self.runtime.membership = getattr(self._client, "membership", self.runtime.membership)
        return self._client

    def poll(self, mine: Callable[[], bool] = lambda: True) -> None:
        """Polls until the stage has left its group or the polling role is not `mine` any more."""
        try:
            self._shift(mine)
            if mine():
                self.coordinator.ending.has_left(self.runtime)
        except BaseException as error:
            self.coordinator.ending.fail(error)
            self._abandon()

    def _shift(self, mine: Callable[[], bool]) -> None:
        procedure = procedures.poll_stage(self.coordinator, self.runtime, mine)
        outcome: _Outcome = None, None
        while not isinstance(effect := self.coordinator.procedures.step(self.runtime, procedure, *outcome), Done):
            if isinstance(effect, do.Write):
                self._writes = get_ident()
                outcome = self._performed(effect)
                if not mine():  # the write was stuck, and another thread polls
                    return
                self._writes = None
            else:
                outcome = self._performed(effect)

    def gives_up(self, thread: int) -> bool:
        """A thread is stuck in a write. Returns whether it polls this stage, so that another thread must continue."""
        if self._writes != thread:
            return False
        self._writes = None
        return True

    def perform(self, procedure: Procedure[T]) -> T:
        """Runs a procedure: its steps under the lock, its effects without."""
        outcome: _Outcome = None, None
        while not isinstance(effect := self.coordinator.procedures.step(self.runtime, procedure, *outcome), Done):
            outcome = self._performed(effect)
        return effect.value

    def _performed(self, effect: Effect) -> _Outcome:
        result: Any = None
        error: BrokerError | None = None
        try:
            result = self._do(effect)
        except BrokerError as refused:
            error = refused
        if isinstance(effect, do.Commit):
            self.coordinator.procedures.report_commit(self.runtime, effect.offsets, error)
        return result, error

    def _do(self, effect: Effect) -> Any:
        match effect:
            case do.Poll(records, timeout):
                consumer = self._consumer()
                return consumer.poll(records, timeout)
            case do.Write():
                self._write(self.runtime)
            case do.Transact():
                self.runtime.transact()
            case do.Begin(run):
                self._begin(self.runtime, run)
            case do.Rest(timeout, facts):
                self._rest(timeout, facts)
            case do.PausePartitions(partitions):
                consumer = self._consumer()
                consumer.pause(partitions)
            case do.ResumePartitions(partitions):
                consumer = self._consumer()
                consumer.resume(partitions)
            case do.Seek(partition, offset):
                consumer = self._consumer()
                consumer.seek(partition, offset)
            case do.StartCommit(offsets):
                consumer = self._consumer()
                self.coordinator.procedures.start_commit(self.runtime, consumer.commit, offsets)
            case do.Commit(offsets, timeout):
                consumer = self._consumer()
                consumer.commit_now(offsets, timeout)
            case do.Committed(partitions, timeout):
                consumer = self._consumer()
                return consumer.committed(partitions, timeout)
            case do.Marks(topic, timeout):
                return self._ask(self._admin.watermarks, topic, timeout)
            case do.GroupOffsets(group, topic, timeout):
                return self._ask(self._admin.committed_offsets, group, topic, timeout)
            case do.ReadKeys(timeout):
                return self._ask(self.coordinator.keys.read, timeout)
            case do.Draw(most):
                return self.coordinator.system.randint(0, most)
            case do.Cancel():
                self._cancel(self.runtime)
            case do.Close():
                if self._client is not None:
                    self._client.close()
        return None

    def _abandon(self) -> None:
        self.coordinator.ending.abandon(self.runtime)
        try:
            if self._client is not None:
                self._client.close()
        except Exception:
            logger.debug("%s could not be closed", self.runtime, exc_info=True)
        self.coordinator.ending.has_left(self.runtime)

    # ---- rebalances

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.coordinator.rebalances.announce(self.runtime, "assigned", partitions)
        starts = self.perform(procedures.assign(self.runtime.engine, partitions, self._now))
        self.runtime.joined = True
        self.coordinator.rebalances.notify(self.runtime, "on_assigned", partitions)
        return starts

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.coordinator.rebalances.announce(self.runtime, "revoked", partitions)
        limit = self._client.max_poll_interval if self._client is not None else 0.0
        coordinator = self.coordinator
        self.perform(
            procedures.revoke(self.runtime.engine, partitions, self._now, limit / 2, coordinator.ending.deadline)
        )
        coordinator.rebalances.notify(self.runtime, "on_revoked", partitions)

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.coordinator.rebalances.lost(self.runtime, partitions)
        self._write(self.runtime)
        self.coordinator.rebalances.notify(self.runtime, "on_lost", partitions)

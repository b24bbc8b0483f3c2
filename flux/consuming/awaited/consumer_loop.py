"""One stage's membership in its consumer group: performs procedures with the stage's consumer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from threading import get_ident
from typing import Any, TypeVar

from flux.consuming import effects as do
from flux.consuming import procedures
from flux.consuming.coordinator import Coordinator, Done, StageRuntime
from flux.consuming.effects import Effect, Procedure
from flux.core.engine.runs import Run
from flux.core.errors import BrokerError
from flux.core.ports import AdminPort, AsyncAdapter, AsyncConsumerPort, TopicPartition

T = TypeVar("T")
_Outcome = tuple[Any, BrokerError | None]
logger = logging.getLogger("flux.worker")


class AsyncConsumerLoop:
    """For one thread, or task, at a time. `rest`: waits for a fact; `write`: writes the stage's forwarded copies;
    `ask`: sends a request to the cluster; `begin`: starts a run; `cancel`: cancels calls that can be cancelled. It is
    the consumer's listener: rebalances happen inside a poll."""

    def __init__(
        self,
        coordinator: Coordinator,
        runtime: StageRuntime,
        adapter: AsyncAdapter,
        admin: AdminPort,
        *,
        rest: Callable[[float, int | None], Awaitable[None]],
        write: Callable[[StageRuntime], Awaitable[None]],
        ask: Callable[..., Awaitable[Any]],
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
        self._client: AsyncConsumerPort | None = None
        self._writes: int | None = None
        """The identifier of the thread that polls, while it writes forwarded copies."""

    async def _consumer(self) -> AsyncConsumerPort:
        if self._client is None:
            self._client = await self._adapter.async_consumer(self.runtime.settings, self)
            # only clients with transactions have it
            self.runtime.membership = getattr(self._client, "membership", self.runtime.membership)
        return self._client

    async def poll(self, mine: Callable[[], bool] = lambda: True) -> None:
        """Polls until the stage has left its group or the polling role is not `mine` any more."""
        try:
            await self._shift(mine)
            if mine():
                self.coordinator.ending.has_left(self.runtime)
        except BaseException as error:
            self.coordinator.ending.fail(error)
            await self._abandon()

    async def _shift(self, mine: Callable[[], bool]) -> None:
        procedure = procedures.poll_stage(self.coordinator, self.runtime, mine)
        outcome: _Outcome = None, None
        while not isinstance(effect := self.coordinator.procedures.step(self.runtime, procedure, *outcome), Done):
            if isinstance(effect, do.Write):
                self._writes = get_ident()
                outcome = await self._performed(effect)
                if not mine():  # the write was stuck, and another thread polls
                    return
                self._writes = None
            else:
                outcome = await self._performed(effect)

    def gives_up(self, thread: int) -> bool:
        """A thread is stuck in a write. Returns whether it polls this stage, so that another thread must continue."""
        if self._writes != thread:
            return False
        self._writes = None
        return True

    async def perform(self, procedure: Procedure[T]) -> T:
        """Runs a procedure: its steps under the lock, its effects without."""
        outcome: _Outcome = None, None
        while not isinstance(effect := self.coordinator.procedures.step(self.runtime, procedure, *outcome), Done):
            outcome = await self._performed(effect)
        return effect.value

    async def _performed(self, effect: Effect) -> _Outcome:
        result: Any = None
        error: BrokerError | None = None
        try:
            result = await self._do(effect)
        except BrokerError as refused:
            error = refused
        if isinstance(effect, do.Commit):
            self.coordinator.procedures.report_commit(self.runtime, effect.offsets, error)
        return result, error

    async def _do(self, effect: Effect) -> Any:
        match effect:
            case do.Poll(records, timeout):
                consumer = await self._consumer()
                return await consumer.poll(records, timeout)
            case do.Write():
                await self._write(self.runtime)
            case do.Transact():
                self.runtime.transact()
            case do.Begin(run):
                self._begin(self.runtime, run)
            case do.Rest(timeout, facts):
                await self._rest(timeout, facts)
            case do.PausePartitions(partitions):
                consumer = await self._consumer()
                consumer.pause(partitions)
            case do.ResumePartitions(partitions):
                consumer = await self._consumer()
                consumer.resume(partitions)
            case do.Seek(partition, offset):
                consumer = await self._consumer()
                await consumer.seek(partition, offset)
            case do.StartCommit(offsets):
                consumer = await self._consumer()
                self.coordinator.procedures.start_commit(self.runtime, consumer.commit, offsets)
            case do.Commit(offsets, timeout):
                consumer = await self._consumer()
                await consumer.commit_now(offsets, timeout)
            case do.Committed(partitions, timeout):
                consumer = await self._consumer()
                return await consumer.committed(partitions, timeout)
            case do.Marks(topic, timeout):
                return await self._ask(self._admin.watermarks, topic, timeout)
            case do.GroupOffsets(group, topic, timeout):
                return await self._ask(self._admin.committed_offsets, group, topic, timeout)
            case do.ReadKeys(timeout):
                return await self._ask(self.coordinator.keys.read, timeout)
            case do.Draw(most):
                return self.coordinator.system.randint(0, most)
            case do.Cancel():
                self._cancel(self.runtime)
            case do.Close():
                if self._client is not None:
                    await self._client.close()
        return None

    async def _abandon(self) -> None:
        self.coordinator.ending.abandon(self.runtime)
        try:
            if self._client is not None:
                await self._client.close()
        except Exception:
            logger.debug("%s could not be closed", self.runtime, exc_info=True)
        self.coordinator.ending.has_left(self.runtime)

    # ---- rebalances

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.coordinator.rebalances.announce(self.runtime, "assigned", partitions)
        starts = await self.perform(procedures.assign(self.runtime.engine, partitions, self._now))
        self.runtime.joined = True
        self.coordinator.rebalances.notify(self.runtime, "on_assigned", partitions)
        return starts

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.coordinator.rebalances.announce(self.runtime, "revoked", partitions)
        limit = self._client.max_poll_interval if self._client is not None else 0.0
        coordinator = self.coordinator
        await self.perform(
            procedures.revoke(self.runtime.engine, partitions, self._now, limit / 2, coordinator.ending.deadline)
        )
        coordinator.rebalances.notify(self.runtime, "on_revoked", partitions)

    async def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.coordinator.rebalances.lost(self.runtime, partitions)
        await self._write(self.runtime)
        self.coordinator.rebalances.notify(self.runtime, "on_lost", partitions)

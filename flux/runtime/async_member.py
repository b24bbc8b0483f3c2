"""One stage's membership in its consumer group: performs scripts with a client of asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from flux.core.errors import BrokerError
from flux.core.ports import AdminPort, AsyncAdapter, AsyncConsumerPort, TopicPartition
from flux.core.runs import Run
from flux.runtime import effects as do
from flux.runtime import scripts
from flux.runtime.beside import Beside
from flux.runtime.desk import Desk, Done, Post
from flux.runtime.effects import Effect, Script
from flux.runtime.member import announce
from flux.runtime.traces import stack_of_task

T = TypeVar("T")
logger = logging.getLogger("flux.worker")

_WRITE = 30.0  # seconds that polling waits for hops to be written


class AsyncMember:
    """As `Member`, in the event loop that its consumer lives in. `rest` is awaited and holds no lock."""

    def __init__(
        self,
        desk: Desk,
        post: Post,
        adapter: AsyncAdapter,
        admin: AdminPort,
        *,
        rest: Callable[[float, int | None], Awaitable[None]],
        begin: Callable[[Post, Run], None],
        cancel: Callable[[Post], None],
    ) -> None:
        self.desk = desk
        self.post = post
        self._adapter = adapter
        self._admin = admin
        self._rest = rest
        self._begin = begin
        self._now = partial(desk.now, post)
        self._cancel = cancel
        self._client: AsyncConsumerPort | None = None
        self._beside = Beside(desk.system)

    async def poll(self) -> None:
        """Polls until the stage has left."""
        me = asyncio.current_task()
        if me is not None:
            self.post.polling.stack = lambda: stack_of_task(me)
        try:
            self._client = await self._adapter.async_consumer(self.post.settings, self)
            await self.perform(scripts.shift(self.desk, self.post, lambda: True))
        except BaseException as error:
            self.desk.fail(error)
            await self._abandon()
        self.desk.has_left(self.post)

    async def perform(self, script: Script[T]) -> T:
        """Runs a script: its own steps under the lock, its effects without it."""
        result: Any = None
        error: BrokerError | None = None
        while True:
            effect = self.desk.step(self.post, script, result, error)
            if isinstance(effect, Done):
                return effect.value
            result = error = None
            try:
                result = await self._do(effect)
            except BrokerError as refused:
                error = refused
            if isinstance(effect, do.Commit):
                self.desk.tell_commit(self.post, effect.positions, error)

    async def _do(self, effect: Effect) -> Any:
        consumer = self._client
        assert consumer is not None
        match effect:
            case do.Poll(records, timeout):
                return await consumer.poll(records, timeout)
            case do.Write():
                await self._write()
            case do.Begin(run):
                self._begin(self.post, run)
            case do.Rest(timeout, facts):
                await self._rest(timeout, facts)
            case do.Pause(partitions):
                consumer.pause(partitions)
            case do.Resume(partitions):
                consumer.resume(partitions)
            case do.Seek(partition, offset):
                await consumer.seek(partition, offset)
            case do.StartCommit(positions):
                self.desk.start_commit(self.post, consumer.commit, positions)
            case do.Commit(positions, timeout):
                await consumer.commit_now(positions, timeout)
            case do.Committed(partitions, timeout):
                return await consumer.committed(partitions, timeout)
            case do.Marks(topic, timeout):
                return await self._beside.run(self._admin.watermarks, topic, timeout)
            case do.GroupPositions(group, topic, timeout):
                return await self._beside.run(self._admin.positions, group, topic, timeout)
            case do.Draw(most):
                return self.desk.system.randint(0, most)
            case do.Cancel():
                self._cancel(self.post)
            case do.Close():
                await consumer.close()
        return None

    async def _write(self) -> None:
        """A hop's write may ask the cluster for the target's partitions, or wait for room. One that stands still is
        another thread's to go on with, and polling goes on."""
        if not self.post.engine.has_hops:
            self.desk.write(self.post)
            return
        writing = asyncio.ensure_future(self._beside.run(self._written))
        await asyncio.wait([writing], timeout=_WRITE)

    def _written(self) -> None:
        try:
            self.desk.write(self.post)
        except Exception as error:
            self.desk.fail(error)

    async def _abandon(self) -> None:
        self.desk.abandon(self.post)
        try:
            if self._client is not None:
                await self._client.close()
        except Exception:
            logger.debug("%s could not be closed", self.post, exc_info=True)

    # ---- rebalances

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        announce(self.post, "assigned", partitions)
        starts = await self.perform(scripts.assign(self.post.engine, partitions, self._now))
        self.post.joined = True
        self.desk.tell_rebalance(self.post, "on_assigned", partitions)
        return starts

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        announce(self.post, "revoked", partitions)
        limit = self._client.max_poll_interval if self._client is not None else 0.0
        desk = self.desk
        await self.perform(scripts.revoke(self.post.engine, partitions, self._now, limit / 2, desk.deadline))
        desk.tell_rebalance(self.post, "on_revoked", partitions)

    async def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.desk.lost(self.post, partitions)
        await self._write()
        self.desk.tell_rebalance(self.post, "on_lost", partitions)

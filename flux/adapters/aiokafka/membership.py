"""A member's rebalances, as calls of the port's listener, and how it leaves its group in bounded time.

aiokafka leaves a group when its coordination task has ended. A join in progress holds that task until the other members
join too, and its connection carries no other request meanwhile. Such a member leaves on another connection, which
ends the join.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from aiokafka import ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from flux.adapters.aiokafka import internals
from flux.core.ports import AsyncRebalanceListener, TopicPartition

STEP = 2.0  # seconds that each step of leaving may take
_JOINING = 0.2  # seconds after which a stop that has not ended is taken to wait for a join
_LEAVE_INTERVAL = 0.05  # seconds between two attempts to leave


class MembershipOwner(Protocol):
    """What a rebalance needs of the consumer."""

    @property
    def is_member(self) -> bool: ...
    async def begin(self, partitions: list[TopicPartition], find_starts: Any) -> None: ...
    def end(self) -> None: ...
    def fail(self, error: BaseException) -> None: ...


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Awaited by aiokafka's coordinator. Every rebalance is eager: all partitions are revoked, then assigned again.

    Heartbeats continue while `revoked` runs, so a drain may take as long as the rebalance timeout; the new owners
    get their partitions only when this member has joined again.
    """

    def __init__(self, member: MembershipOwner, listener: AsyncRebalanceListener) -> None:
        self._member = member
        self._listener = listener
        self._owned: list[TopicPartition] = []
        self._rebalancing = asyncio.Lock()
        self._left = False

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        async with self._rebalancing:
            await self._give_up()
            self._member.end()

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        async with self._rebalancing:
            if self._left:
                return
            partitions = sorted(TopicPartition(*at) for at in assigned)
            try:
                await self._member.begin(partitions, self._assigned)
            except Exception as error:
                self._member.fail(error)

    async def lose(self) -> None:
        """Called between two rebalances, when the group may have assigned the partitions to others."""
        async with self._rebalancing:
            await self._give_up()

    async def leave(self) -> None:
        """Called before the client closes, while commits are still accepted."""
        async with self._rebalancing:
            self._left = True
            await self._give_up()
            self._member.end()

    async def _assigned(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        self._owned = partitions
        return await self._listener.assigned(partitions)

    async def _give_up(self) -> None:
        owned = self._owned
        if not owned:
            return
        # aiokafka forgets its generation when the group has removed this member.
        notify = self._listener.revoked if self._member.is_member else self._listener.lost
        try:
            await notify(owned)
        except Exception as error:
            self._member.fail(error)
        finally:
            self._owned = []


async def stop(consumer: Any) -> BaseException | None:
    """Ends aiokafka's consumer and its membership. Returns what failed meanwhile, if anything did."""
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([stopping], timeout=_JOINING)
    failure: BaseException | None = None
    if not stopping.done():
        leaving = asyncio.ensure_future(_leave(consumer, stopping))
        await asyncio.wait([stopping], timeout=STEP - _JOINING)
        leaving.cancel()
        await asyncio.wait([leaving], timeout=STEP)
        failure = _failure_of(leaving)
    if stopping.done():
        return _failure_of(stopping) or failure
    # Not even that ended the join: the group waits for the session timeout.
    internals.cancel_coordination(internals.coordinator_of(consumer))
    await asyncio.wait([stopping], timeout=STEP)
    for close in internals.closes_of(consumer):
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await asyncio.wait_for(close(), STEP)
    return _failure_of(stopping) or failure


def _failure_of(task: asyncio.Future[Any]) -> BaseException | None:
    """What the task has raised, if it has ended; else asyncio would log that it was not retrieved."""
    return task.exception() if task.done() and not task.cancelled() else None


async def _leave(consumer: Any, stopping: asyncio.Future[Any]) -> None:
    """A static member does not leave: its place is kept for it."""
    coordinator = internals.coordinator_of(consumer)
    if internals.is_static(coordinator):
        return
    while not stopping.done():
        member, node = coordinator.member_id, coordinator.coordinator_id
        if member and node is not None:
            with contextlib.suppress(KafkaError):
                await internals.client_of(consumer).send(node, LeaveGroupRequest(coordinator.group_id, member))
        await asyncio.sleep(_LEAVE_INTERVAL)

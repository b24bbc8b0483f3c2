"""What aiokafka's rebalances mean for the listener of the port."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from aiokafka import ConsumerRebalanceListener

from flux.core.ports import AsyncRebalanceListener, TopicPartition


class MembershipOwner(Protocol):
    """The consumer, as far as a rebalance concerns it."""

    @property
    def is_member(self) -> bool: ...
    async def begin(self, partitions: list[TopicPartition], where: Any) -> None: ...
    def end(self) -> None: ...
    def fail(self, error: BaseException) -> None: ...


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Awaited by aiokafka's coordinator. Every rebalance is eager: all is revoked, then all is assigned anew.

    The heartbeat goes on while `revoked` runs, so a drain may take as long as the rebalance timeout; the new owners
    get their partitions only when this member has joined again.
    """

    def __init__(self, member: MembershipOwner, listener: AsyncRebalanceListener) -> None:
        self._member = member
        self._listener = listener
        self._owned: list[TopicPartition] = []
        self._turn = asyncio.Lock()
        self._left = False

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        async with self._turn:
            await self._give_up()
            self._member.end()

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        async with self._turn:
            if self._left:
                return
            partitions = sorted(TopicPartition(*at) for at in assigned)
            try:
                await self._member.begin(partitions, self._assigned)
            except Exception as error:
                self._member.fail(error)

    async def lose(self) -> None:
        """Between two rebalances: the group may have given its partitions to others."""
        async with self._turn:
            await self._give_up()

    async def leave(self) -> None:
        """Before the client closes, while commits still count."""
        async with self._turn:
            self._left = True
            await self._give_up()
            self._member.end()

    async def _assigned(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        if not partitions:
            return {}
        self._owned = partitions
        return await self._listener.assigned(partitions)

    async def _give_up(self) -> None:
        owned = self._owned
        if not owned:
            return
        # aiokafka forgets its generation when the group has put this member out.
        tell = self._listener.revoked if self._member.is_member else self._listener.lost
        try:
            await tell(owned)
        except Exception as error:
            self._member.fail(error)
        finally:
            self._owned = []

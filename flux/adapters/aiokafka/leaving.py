"""Ends a consumer of aiokafka in bounded time, and its membership with it.

aiokafka leaves its group when its coordination task has ended. A join that is under way holds that task for as long as
other members take to join too, and its connection takes nothing else meanwhile. So such a member leaves on another
connection, which ends the join.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

STEP = 2.0  # seconds that each step of leaving may take
_JOINING = 0.2  # seconds after which whatever holds the coordination task is a join
_LOOK = 0.05


async def stop(consumer: Any) -> BaseException | None:
    """Gives what failed while it ended, if anything did."""
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([stopping], timeout=_JOINING)
    failed: BaseException | None = None
    if not stopping.done():
        leaving = asyncio.ensure_future(_leave(consumer._coordinator, stopping))
        await asyncio.wait([stopping], timeout=STEP - _JOINING)
        leaving.cancel()
        await asyncio.wait([leaving], timeout=STEP)
        failed = _failure(leaving)
    if stopping.done():
        return _failure(stopping) or failed
    # Not even that ended the join: the group finds out by the session timeout.
    consumer._coordinator._coordination_task.cancel()
    await asyncio.wait([stopping], timeout=STEP)
    for part in (consumer._fetcher, consumer._client):
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await asyncio.wait_for(part.close(), STEP)
    return _failure(stopping) or failed


def _failure(task: asyncio.Future[Any]) -> BaseException | None:
    """What it has raised, if it has ended: else asyncio would say that nobody looked."""
    return task.exception() if task.done() and not task.cancelled() else None


async def _leave(coordinator: Any, stopping: asyncio.Future[Any]) -> None:
    """A static member does not leave, as its place is kept for it."""
    if coordinator._group_instance_id is not None:
        return
    while not stopping.done():
        member, node = coordinator.member_id, coordinator.coordinator_id
        if member and node is not None:
            with contextlib.suppress(KafkaError):
                await coordinator._client.send(node, LeaveGroupRequest(coordinator.group_id, member))
        await asyncio.sleep(_LOOK)

"""Commits of a member of a consumer group, and the committed offsets that it reads.

aiokafka repeats a commit that the broker refuses for ever. So commits go to its coordinator directly, one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition as ClientPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from flux.adapters.aiokafka import internals
from flux.adapters.aiokafka.errors import fault_of, translated
from flux.adapters.operations import invalid_metadata
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, TopicPartition

Done = Callable[[BrokerError | None], None]

_RETRY = 0.1  # seconds between two attempts
_END = "\0"


class Commits:
    """Used in one event loop, after the consumer has connected. `is_member`: whether the member may still commit;
    `translate`: makes a BrokerError of an error and what was attempted; `fail`: receives what a callback raises."""

    def __init__(
        self,
        group: str,
        is_member: Callable[[], bool],
        translate: Callable[[BaseException, str], BrokerError],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._group = group
        self._is_member = is_member
        self._translate = translate
        self._fail = fail
        self._pending: set[asyncio.Task[None]] = set()
        self._committing = asyncio.Lock()

    async def committed(
        self, coordinator: Any, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, CommittedOffset | None]:
        """Raises KafkaError."""
        found = await coordinator.fetch_committed_offsets([ClientPartition(*at) for at in partitions])
        return {
            at: CommittedOffset(found[at].offset, plain_metadata(found[at].metadata)) if at in found else None
            for at in partitions
        }

    def start(self, commit: Callable[[], Awaitable[None]], done: Done) -> None:
        """Awaits `commit` in a task of its own, which then calls `done`."""
        task = asyncio.get_running_loop().create_task(self._commit_and_report(commit, done))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def close(self, timeout: float) -> None:
        """Waits for pending commits, then cancels them."""
        if self._pending:
            await asyncio.wait(list(self._pending), timeout=timeout)
        for task in self._pending:
            task.cancel()

    async def _commit_and_report(self, commit: Callable[[], Awaitable[None]], done: Done) -> None:
        error: BrokerError | None = None
        try:
            await commit()
        except BrokerError as failure:
            error = failure
        except asyncio.CancelledError:
            error = BrokerError("the consumer closed before the commit was answered", Fault.UNAVAILABLE)
        except Exception as failure:
            error = translated(failure, "cannot commit")
        try:
            done(error)
        except BaseException as failure:
            self._fail(failure)

    async def commit(self, coordinator: Any, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        """Raises BrokerError."""
        try:
            async with asyncio.timeout(timeout), self._committing:
                await self._commit(coordinator, offsets)
        except (KafkaError, TimeoutError) as error:
            raise self._translate(error, "cannot commit") from None

    async def _commit(self, coordinator: Any, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        try:
            for committed in offsets.values():
                committed.metadata.encode()
        except UnicodeEncodeError as error:
            raise invalid_metadata("cannot commit", error) from None
        to_commit = {
            ClientPartition(*at): OffsetAndMetadata(committed.offset, terminated_metadata(committed.metadata))
            for at, committed in offsets.items()
        }
        while True:
            if not self._is_member():
                # Without a membership the broker would accept it from an empty group, as it does an operator's commit.
                raise BrokerError(f"cannot commit: no member of {self._group} (any more)", Fault.FENCED)
            await coordinator.ensure_coordinator_known()
            try:
                async with internals.commit_lock(coordinator):
                    if self._is_member():
                        # Continues when the caller stops waiting: cancelled, it could be half sent.
                        task = asyncio.ensure_future(internals.commit_offsets(coordinator, to_commit))
                        task.add_done_callback(lambda done: done.cancelled() or done.exception())
                        await asyncio.shield(task)
                        return
            except KafkaError as error:
                if fault_of(error) is not Fault.UNAVAILABLE:
                    raise
                await asyncio.sleep(_RETRY)


def terminated_metadata(metadata: str) -> str:
    """The metadata of a committed offset as it is written: confluent-kafka ends its own with a NUL, and reads beyond
    the end of metadata without one."""
    return metadata + _END if metadata else ""


def plain_metadata(metadata: str | None) -> str:
    """The metadata as it was meant, whichever client wrote it."""
    return (metadata or "").rstrip(_END)

"""Consumers for the checks: blocking calls, whether the adapter's consumer is for threads or for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from flux.core.errors import BrokerError
from flux.core.ports import (
    BEGINNING,
    AsyncConsumerPort,
    CommittedOffset,
    ConsumerPort,
    ConsumerSettings,
    Membership,
    PollResult,
    TopicPartition,
)

Result = TypeVar("Result")
Done = Callable[[BrokerError | None], None]


class SeenEvents:
    """A listener's notifications and answers. `start`: where each partition starts; None: at the committed offset, else
    at the beginning. `commits_when_revoked`: whether `worked` is committed inside `revoked`. Failed assertions are kept
    in `errors`."""

    def __init__(self, start: int | None, seconds: float) -> None:
        self.start = start
        self.seconds = seconds
        self.calls: list[tuple[str, list[TopicPartition]]] = []
        self.owned: set[TopicPartition] = set()
        self.worked: dict[TopicPartition, int] = {}
        self.commits_when_revoked = False
        self.errors: list[Exception] = []

    def assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self.calls.append(("assigned", sorted(partitions)))
        if self.owned & set(partitions):
            self.errors.append(AssertionError(f"assigned twice: {partitions}"))
        self.owned.update(partitions)

    def revoked(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, CommittedOffset]:
        """Returns what to commit."""
        self.calls.append(("revoked", sorted(partitions)))
        return self.to_commit(partitions)

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.calls.append(("lost", sorted(partitions)))
        self.released(partitions)

    def released(self, partitions: Sequence[TopicPartition]) -> None:
        if not self.owned >= set(partitions):
            self.errors.append(AssertionError(f"given up, but not owned: {partitions}"))
        self.owned.difference_update(partitions)
        for at in partitions:
            self.worked.pop(at, None)

    def to_commit(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, CommittedOffset]:
        if not self.commits_when_revoked:
            return {}
        return {at: CommittedOffset(self.worked[at], "revoked") for at in partitions if at in self.worked}

    def starts(
        self, partitions: Iterable[TopicPartition], offsets: Mapping[TopicPartition, CommittedOffset | None] | None
    ) -> dict[TopicPartition, int]:
        if offsets is None:
            assert self.start is not None
            return dict.fromkeys(partitions, self.start)
        return {at: BEGINNING if found is None else found.offset for at, found in offsets.items()}


class ContractMember(Protocol):
    """One consumer. Every method blocks."""

    events: SeenEvents

    def poll(self, max_records: int = 500, timeout: float = 0.05) -> PollResult: ...
    def pause(self, partitions: Iterable[TopicPartition]) -> None: ...
    def resume(self, partitions: Iterable[TopicPartition]) -> None: ...
    def seek(self, partition: TopicPartition, offset: int) -> None: ...
    def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, CommittedOffset | None]: ...
    def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], done: Done) -> None: ...
    def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None: ...
    def membership(self) -> Membership | None:
        """None for an asyncio client."""
        ...

    def idle(self, seconds: float) -> None:
        """Does not poll for so long."""
        ...

    def close(self) -> None: ...


class ThreadMember:
    """A member by `Adapter.consumer`, which is its own listener."""

    def __init__(self, adapter: Any, settings: ConsumerSettings, events: SeenEvents) -> None:
        self.events = events
        self._seconds = events.seconds
        self._port: ConsumerPort = adapter.consumer(settings, self)
        self.pause = self._port.pause
        self.resume = self._port.resume
        self.seek = self._port.seek
        self.commit = self._port.commit
        self.membership = self._port.membership
        self.close = self._port.close
        self.idle = time.sleep

    def poll(self, max_records: int = 500, timeout: float = 0.05) -> PollResult:
        polled = self._port.poll(max_records, timeout)
        _raise(self.events)
        return polled

    def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, CommittedOffset | None]:
        return self._port.committed(partitions, self._seconds)

    def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        self._port.commit_now(offsets, self._seconds)

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.events.assigned(partitions)
        committed = self._port.committed(partitions, self._seconds) if self.events.start is None else None
        return self.events.starts(partitions, committed)

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        try:
            if offsets := self.events.revoked(partitions):
                self._port.commit_now(offsets, self._seconds)
            self.events.released(partitions)
        except Exception as error:
            self.events.errors.append(error)

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.events.lost(partitions)


class LoopMember:
    """A member by `AsyncAdapter.async_consumer`, in the event loop `loop`, which runs only while a method does."""

    def __init__(
        self, adapter: Any, settings: ConsumerSettings, events: SeenEvents, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.events = events
        self._seconds = events.seconds
        self._loop = loop
        self._port: AsyncConsumerPort = self._run(adapter.async_consumer(settings, self))

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(coroutine)

    def poll(self, max_records: int = 500, timeout: float = 0.05) -> PollResult:
        polled = self._run(self._port.poll(max_records, timeout))
        _raise(self.events)
        return polled

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        async def pause() -> None:
            self._port.pause(partitions)

        self._run(pause())

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        async def resume() -> None:
            self._port.resume(partitions)

        self._run(resume())

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._run(self._port.seek(partition, offset))

    def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, CommittedOffset | None]:
        return self._run(self._port.committed(partitions, self._seconds))

    def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], done: Done) -> None:
        async def commit() -> None:
            self._port.commit(offsets, done)

        self._run(commit())

    def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        self._run(self._port.commit_now(offsets, self._seconds))

    def membership(self) -> None:
        return None

    def idle(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))

    def close(self) -> None:
        self._run(self._port.close())

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.events.assigned(partitions)
        committed = await self._port.committed(partitions, self._seconds) if self.events.start is None else None
        return self.events.starts(partitions, committed)

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        try:
            if offsets := self.events.revoked(partitions):
                await self._port.commit_now(offsets, self._seconds)
            self.events.released(partitions)
        except Exception as error:
            self.events.errors.append(error)

    async def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.events.lost(partitions)


def membership_of(member: ContractMember) -> Membership:
    membership = member.membership()
    assert membership is not None, "a member with partitions has no membership"
    return membership


def _raise(events: SeenEvents) -> None:
    if events.errors:
        raise events.errors[0]

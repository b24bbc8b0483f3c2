"""The simulated cluster as a client of asyncio sees it: what blocks runs in a thread, as an executor's would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from flux.core.errors import BrokerError
from flux.core.ports import AsyncRebalanceListener, CommittedOffset, ConsumerSettings, PollResult, TopicPartition
from simulation.clients import Adapter, Consumer
from simulation.system import Condition

if TYPE_CHECKING:
    from simulation.world import World

T = TypeVar("T")


class AsyncAdapter(Adapter):
    """`flux.core.ports.AsyncAdapter`."""

    consumer: Any = None

    async def async_consumer(self, settings: ConsumerSettings, listener: AsyncRebalanceListener) -> AsyncConsumer:
        return AsyncConsumer(self._world, settings, listener)


class _Bridge:
    """Has the methods of a listener of asyncio run in its event loop, and waits for them in the client's thread."""

    def __init__(self, world: World, loop: asyncio.AbstractEventLoop, listener: AsyncRebalanceListener) -> None:
        self._loop = loop
        self._listener = listener
        self._ended = Condition(world.machine)

    def _run(self, listen: Callable[[], Coroutine[Any, Any, T]]) -> T:
        results: list[tuple[T | None, BaseException | None]] = []

        async def run() -> None:
            result, error = None, None
            try:
                result = await listen()
            except Exception as raised:
                error = raised
            with self._ended:
                results.append((result, error))
                self._ended.notify_all()

        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(run()))
        with self._ended:
            while not results:
                self._ended.wait(60.0)
        result, error = results[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return self._run(lambda: self._listener.assigned(partitions))

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._run(lambda: self._listener.revoked(partitions))

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self._run(lambda: self._listener.lost(partitions))


class AsyncConsumer:
    """`flux.core.ports.AsyncConsumerPort`."""

    def __init__(self, world: World, settings: ConsumerSettings, listener: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._inner = Consumer(world, settings, _Bridge(world, self._loop, listener), listener)
        self.max_poll_interval = self._inner.max_poll_interval

    def _blocking(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return self._loop.run_in_executor(None, function, *args)

    async def poll(self, max_records: int, timeout: float) -> PollResult:
        return await self._blocking(self._inner.poll, max_records, timeout)  # type: ignore[no-any-return]

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._inner.pause(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._inner.resume(partitions)

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        self._inner.seek(partition, offset)

    async def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset | None]:
        return await self._blocking(self._inner.committed, partitions, timeout)  # type: ignore[no-any-return]

    def commit(
        self, offsets: Mapping[TopicPartition, CommittedOffset], done: Callable[[BrokerError | None], None]
    ) -> None:
        self._inner.commit(offsets, lambda error: self._tell(done, error))

    def _tell(self, done: Callable[[BrokerError | None], None], error: BrokerError | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(done, error)

    async def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        await self._blocking(self._inner.commit_now, offsets, timeout)

    async def close(self) -> None:
        await self._blocking(self._inner.close)

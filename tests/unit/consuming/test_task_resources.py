"""What a task has from before its first call until after its last."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

import flux
from flux.core.ports import Thread
from flux.testing import Kit
from unit.support.peers_support import FastMachine, Peer, wait_for

steps: list[str] = []


@pytest.fixture(autouse=True)
def _no_steps() -> None:
    steps.clear()


class Plain(flux.Task):
    topic, group_id, retries = "t", "g", 0
    pool: str

    def resources(self) -> Iterator[None]:
        steps.append("enter")
        self.pool = "pool"
        yield
        steps.append("leave")

    def setup(self) -> None:
        steps.append(f"setup with {self.pool}")

    def call(self, message: flux.Message) -> None:
        steps.append(f"call with {self.pool}")

    def close(self) -> None:
        steps.append(f"close with {self.pool}")


class Awaited(flux.Task):
    topic, group_id, retries = "t", "g", 0
    pool: str

    async def resources(self) -> AsyncIterator[None]:
        steps.append("enter")
        self.pool = "pool"
        async with asyncio.timeout(60):  # is left by the task that has entered it, or fails
            yield
        steps.append("leave")

    async def setup(self) -> None:
        steps.append(f"setup with {self.pool}")

    async def call(self, message: flux.Message) -> None:
        steps.append(f"call with {self.pool}")

    async def close(self) -> None:
        steps.append(f"close with {self.pool}")


class Managed(Plain):
    @contextmanager
    def resources(self) -> Iterator[None]:  # type: ignore[override]
        yield from super().resources()


class ManagedAsync(Awaited):
    @asynccontextmanager
    async def resources(self) -> AsyncIterator[None]:  # type: ignore[override]
        async for _ in super().resources():
            yield


class Mixed(Awaited):
    def resources(self) -> Iterator[None]:  # type: ignore[override]
        return Plain.resources(self)  # type: ignore[arg-type]


IN_ORDER = ["enter", "setup with pool", "call with pool", "call with pool", "close with pool", "leave"]
ALL = [Plain, Awaited, Managed, ManagedAsync, Mixed]


@pytest.fixture
def peer() -> Peer:
    peer = Peer()
    for topic in ("t", "t-g-dlq"):
        peer.broker.create_topic(topic, 1)
    return peer


@pytest.mark.parametrize("task", ALL)
def test_they_are_entered_once_before_the_first_call_and_left_after_the_last(peer: Peer, task: type[flux.Task]) -> None:
    peer.write(b"1", b"2")
    with peer.working(task):
        wait_for(lambda: len(steps) == 4, "both are done")
    assert steps == IN_ORDER


@pytest.mark.parametrize("task", ALL)
def test_the_kit_enters_them_in_each_run(flux_kit: Kit, task: type[flux.Task]) -> None:
    for _ in range(2):
        flux_kit.produce("t", "1")
        flux_kit.produce("t", "2")
        flux_kit.run(task)
    assert steps == [*IN_ORDER, *IN_ORDER]


@pytest.mark.parametrize("task", ALL)
def test_a_test_provides_others(flux_kit: Kit, task: type[flux.Task]) -> None:
    flux_kit.provide(task, pool="something else")
    flux_kit.provide(task, pool="fake")
    flux_kit.produce("t", "1")
    flux_kit.run(task)
    assert steps == ["setup with fake", "call with fake", "close with fake"]


def test_a_test_provides_nothing_for_a_task_without_them(flux_kit: Kit) -> None:
    class Bare(flux.Task):
        topic, group_id = "t", "g"

    with pytest.raises(flux.ConfigurationError, match="Bare has no resources"):
        flux_kit.provide(Bare, pool=1)


def without_yield(self: Any) -> Any:
    return 1


async def coroutine(self: Any) -> None: ...


def of_two(self: Any, other: Any) -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("base", "resources", "says"),
    [
        (Plain, Awaited.resources, "resources is asynchronous, and call is a plain def"),
        (Plain, ManagedAsync.resources, "resources is asynchronous, and call is a plain def"),
        (Plain, lambda self: Awaited.resources(self), "resources is asynchronous, and call is a plain def"),
        (Plain, without_yield, "resources must yield once, or return a context manager"),
        (Awaited, coroutine, "resources contains no yield"),
        (Awaited, lambda self: coroutine(self), "resources returned a coroutine that was not awaited"),
        (Plain, of_two, r"resources must take \(\)"),
    ],
)
def test_what_could_never_work_is_refused_at_the_start(
    peer: Peer, base: type[flux.Task], resources: Callable[..., Any], says: str
) -> None:
    task = type("Odd", (base,), {"resources": resources})
    with pytest.raises(flux.ConfigurationError, match=f"Odd.{says}"):
        flux.Worker(task, adapter=peer.adapter, system=peer.machine).run()


def refused(self: Any) -> Iterator[None]:
    raise LookupError("no database")
    yield


async def refused_async(self: Any) -> AsyncIterator[None]:
    raise LookupError("no database")
    yield


@pytest.mark.parametrize(("base", "resources"), [(Plain, refused), (Awaited, refused_async)])
def test_a_failure_to_enter_them_ends_the_start_and_leaves_what_was_entered(
    peer: Peer, base: type[flux.Task], resources: Callable[..., Any]
) -> None:
    second = type("Second", (base,), {"resources": resources, "group_id": "other", "retries": 0})
    peer.broker.create_topic("t-other-dlq", 1)
    with pytest.raises(LookupError, match="no database"):
        flux.Worker(base, second, adapter=peer.adapter, system=peer.machine).run()
    assert steps == ["enter", "setup with pool", "close with pool", "leave"]


@pytest.mark.parametrize("base", [Plain, Awaited])
def test_they_are_left_although_close_fails(
    peer: Peer, base: type[flux.Task], caplog: pytest.LogCaptureFixture
) -> None:
    def close(self: Any) -> None:
        raise LookupError("not closed")

    with caplog.at_level(logging.ERROR), peer.working(type("Unclosed", (base,), {"close": close})):
        wait_for(lambda: len(steps) == 2, "it has started")
    assert steps == ["enter", "setup with pool", "leave"]
    assert "Unclosed.close failed: LookupError: not closed" in caplog.text


def test_they_are_not_left_while_an_abandoned_call_may_use_them(peer: Peer) -> None:
    began, release = threading.Event(), threading.Event()

    class Endless(Plain):
        shutdown_timeout = 1

        def call(self, message: flux.Message) -> None:
            began.set()
            release.wait(60)

    peer.write(b"1")
    with peer.working(Endless, code=3):
        assert began.wait(60)
    assert steps == ["enter", "setup with pool"]
    release.set()


def test_a_task_of_their_task_group_that_fails_ends_the_worker(peer: Peer) -> None:
    fail = asyncio.Event()

    class Refreshing(Awaited):
        async def resources(self) -> AsyncIterator[None]:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.refresh())
                self.pool = "pool"
                yield

        async def refresh(self) -> None:
            await fail.wait()
            raise LookupError("no more tokens")

    async def main() -> None:
        async with flux.Worker(Refreshing, adapter=peer.adapter, system=peer.machine) as worker:
            fail.set()
            await asyncio.wait_for(worker.wait_async(), 10)

    with pytest.raises(flux.WorkerFailed) as failed:
        asyncio.run(main())
    assert isinstance(failed.value.__cause__, ExceptionGroup)
    assert [str(each) for each in failed.value.__cause__.exceptions] == ["no more tokens"]
    assert steps == ["setup with pool", "close with pool"]


def exits(self: Any) -> None:
    raise SystemExit(7)


async def exits_async(self: Any) -> None:
    raise SystemExit(7)


@pytest.mark.parametrize(("base", "setup"), [(Plain, exits), (Awaited, exits_async)])
def test_a_setup_that_exits_ends_the_worker_in_order(
    peer: Peer, base: type[flux.Task], setup: Callable[..., Any]
) -> None:
    second = type("Second", (base,), {"setup": setup, "group_id": "other"})
    peer.broker.create_topic("t-other-dlq", 1)
    with pytest.raises(SystemExit, match="7"):
        flux.Worker(base, second, adapter=peer.adapter, system=peer.machine).run()
    assert steps == ["enter", "setup with pool", "enter", "close with pool", "leave", "close with pool", "leave"]


class Exhausted(FastMachine):
    """No thread is left for the task of the topic `other`."""

    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        if name.startswith("flux-other-"):
            raise RuntimeError("can't start new thread")
        return super().spawn(name, target)


def test_a_task_that_cannot_start_ends_the_worker_in_order() -> None:
    peer = Peer(machine=Exhausted())
    for topic in ("t", "t-g-dlq", "other", "other-h-dlq"):
        peer.broker.create_topic(topic, 1)
    peer.write(b"1")

    second = type("Second", (Plain,), {"topic": "other", "group_id": "h"})
    with pytest.raises(RuntimeError, match="can't start new thread"):
        flux.Worker(Plain, second, adapter=peer.adapter, system=peer.machine).run()
    opened, closed = ["enter", "setup with pool"] * 2, ["close with pool", "leave"] * 2
    assert [step for step in steps if not step.startswith("call")] == [*opened, *closed]
    assert peer.adapter.admin().members("g", 1.0) == []

"""A worker in a `with` block: what its start raises, what runs beside the block, and how both end."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import flux
from flux.adapters.memory import MemoryAdapter
from flux.core.errors import BrokerError, Fault
from unit.support.peers_support import Peer, wait_for

SECONDS = 60.0


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture(params=["with", "async with"])
def in_block(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`in_block(worker, body)`: runs `body(worker)` beside the worker, on a thread in either case."""

    def plainly(worker: flux.Worker, body: Callable[[flux.Worker], Any]) -> None:
        with worker as entered:
            body(entered)

    async def awaited(worker: flux.Worker, body: Callable[[flux.Worker], Any]) -> None:
        async with asyncio.timeout(SECONDS), worker as entered:
            await asyncio.to_thread(body, entered)

    if request.param == "with":
        return plainly
    return lambda worker, body: asyncio.run(awaited(worker, body))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_records_are_processed_beside_the_block_and_committed_at_its_end(
    peer: Peer, in_block: Callable[..., None], asynchronous: bool
) -> None:
    done: list[bytes] = []

    async def handler(message: flux.Message) -> None:
        done.append(message.value)

    task = peer.task(handler if asynchronous else lambda message: done.append(message.value))
    worker = flux.Worker(task, adapter=peer.adapter, system=peer.machine)

    def body(entered: flux.Worker) -> None:
        assert entered is worker
        assert worker.ready
        peer.write(b"1", b"2")
        wait_for(lambda: len(done) == 2, "both are done")

    in_block(worker, body)
    assert done == [b"1", b"2"]
    assert peer.position() == 2
    assert worker.ended
    assert worker.failure is None


def test_each_member_is_named_after_its_task(peer: Peer) -> None:
    def billing(message: flux.Message) -> None: ...

    with flux.Worker(peer.task(billing), adapter=peer.adapter, system=peer.machine) as worker:
        wait_for(lambda: worker.health().ready, "it has joined")
        admin = peer.adapter.admin()
        names = [member.client_id for group in ("g", "g-1") for member in admin.members(group, 1)]
    assert names == ["flux-billing"] * 2


def test_an_exception_in_the_block_stops_the_worker_gracefully(peer: Peer, in_block: Callable[..., None]) -> None:
    began, done = threading.Event(), threading.Event()

    def handler(message: flux.Message) -> None:
        began.set()
        assert worker_stops.wait(SECONDS)
        done.set()

    worker_stops = threading.Event()
    worker = flux.Worker(peer.task(handler), adapter=peer.adapter, system=peer.machine)
    stop = worker._driver.stop

    def stopping() -> None:
        stop()
        worker_stops.set()

    worker._driver.stop = stopping  # type: ignore[method-assign]
    peer.write(b"1")

    def body(_: flux.Worker) -> None:
        assert began.wait(SECONDS)
        raise LookupError("in the block")

    with pytest.raises(LookupError, match="in the block"):
        in_block(worker, body)
    assert done.is_set(), "the call in flight was not waited for"
    assert peer.position() == 1


def test_a_missing_topic_is_raised_by_the_start(peer: Peer, in_block: Callable[..., None]) -> None:
    task = flux.task(topic="nowhere", group_id="g")(lambda message: None)
    closed: list[int] = []
    worker = flux.Worker(peer.task(lambda message: None), task, adapter=peer.adapter, system=peer.machine)
    with pytest.raises(flux.ConfigurationError, match=r"missing topic\(s\) nowhere"):
        in_block(worker, lambda _: closed.append(1))
    assert not closed, "the block ran"
    assert worker.ended


def test_a_refused_login_is_raised_by_the_start(peer: Peer, in_block: Callable[..., None]) -> None:
    class Refusing(MemoryAdapter):
        def admin(self) -> Any:
            raise BrokerError("wrong password", Fault.LOGIN)

    worker = flux.Worker(peer.task(lambda message: None), adapter=Refusing("refusing"), system=peer.machine)
    with pytest.raises(BrokerError, match="wrong password"):
        in_block(worker, lambda _: pytest.fail("the block ran"))


def test_what_setup_raises_is_raised_by_the_start(peer: Peer, in_block: Callable[..., None]) -> None:
    task = peer.task(lambda message: None)

    def setup() -> None:
        raise LookupError("no database")

    task.setup = setup  # type: ignore[method-assign]
    with pytest.raises(LookupError, match="no database"):
        in_block(flux.Worker(task, adapter=peer.adapter, system=peer.machine), lambda _: pytest.fail("the block ran"))


def test_the_block_begins_in_an_outage_and_the_worker_starts_after_it(
    peer: Peer, in_block: Callable[..., None]
) -> None:
    done: list[bytes] = []
    worker = flux.Worker(
        peer.task(lambda message: done.append(message.value)), adapter=peer.adapter, system=peer.machine
    )
    peer.write(b"1")
    peer.broker.available = False

    def body(_: flux.Worker) -> None:
        assert not worker.ready
        assert worker.health().live
        peer.broker.available = True
        wait_for(lambda: done, "it has started")

    in_block(worker, body)
    assert peer.position() == 1


def fails(message: flux.Message) -> None:
    raise MemoryError("no room")


def test_a_failure_is_seen_inside_the_block_and_raised_at_its_end(peer: Peer, in_block: Callable[..., None]) -> None:
    worker = flux.Worker(peer.task(fails), adapter=peer.adapter, system=peer.machine)

    def body(_: flux.Worker) -> None:
        assert worker.failure is None
        peer.write(b"1")
        wait_for(lambda: not worker.health().live, "probes are told")
        assert isinstance(worker.failure, MemoryError)
        assert worker.health().troubles == ["the worker has failed: MemoryError: no room"]

    with pytest.raises(flux.WorkerFailed, match="the worker has failed: MemoryError: no room") as raised:
        in_block(worker, body)
    assert isinstance(raised.value.__cause__, MemoryError)
    assert peer.position() == 0


def test_a_failure_does_not_replace_the_exception_of_the_block(peer: Peer, in_block: Callable[..., None]) -> None:
    worker = flux.Worker(peer.task(fails), adapter=peer.adapter, system=peer.machine)

    def body(_: flux.Worker) -> None:
        peer.write(b"1")
        wait_for(lambda: worker.failure, "it has failed")
        raise LookupError

    with pytest.raises(LookupError):
        in_block(worker, body)


def test_waiting_ends_with_an_idle_worker(peer: Peer) -> None:
    done: list[bytes] = []
    task = peer.task(lambda message: done.append(message.value))
    peer.write(b"1")
    with flux.Worker(task, adapter=peer.adapter, system=peer.machine, exit_when_idle=1) as worker:
        assert not worker.wait(0)
        assert worker.wait(SECONDS * 20)
        assert done == [b"1"]


def test_waiting_raises_the_failure(peer: Peer) -> None:
    task = peer.task(fails)
    peer.write(b"2")
    with (
        pytest.raises(flux.WorkerFailed, match="no room"),
        flux.Worker(task, adapter=peer.adapter, system=peer.machine) as worker,
    ):
        worker.wait()


def test_waiting_in_an_event_loop_ends_with_the_worker_and_raises_its_failure(peer: Peer) -> None:
    async def main() -> None:
        task = peer.task(fails)
        async with flux.Worker(task, adapter=peer.adapter, system=peer.machine) as worker:
            worker.stop()
            await asyncio.wait_for(worker.wait_async(), SECONDS)
        async with flux.Worker(task, adapter=peer.adapter, system=peer.machine) as worker:
            peer.write(b"1")
            with pytest.raises(flux.WorkerFailed):
                await asyncio.wait_for(worker.wait_async(), SECONDS)
            raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(main())


def test_records_that_the_next_topic_refuses_are_a_failure_of_an_idle_worker(peer: Peer) -> None:
    def handler(message: flux.Message) -> None:
        raise ValueError

    task = peer.task(handler)
    peer.broker.fail_writes(lambda topic, *_: BrokerError("denied", Fault.DENIED) if topic != "t" else None)
    peer.write(b"1")
    with (
        pytest.raises(flux.WorkerFailed, match="the next topic refuses"),
        flux.Worker(task, adapter=peer.adapter, system=peer.machine, exit_when_idle=1) as worker,
    ):
        worker.wait()


def test_a_cancelled_block_ends_gracefully(peer: Peer) -> None:
    done: list[bytes] = []

    async def handler(message: flux.Message) -> None:
        began.set()
        await asyncio.sleep(0.02)
        done.append(message.value)

    async def block(worker: flux.Worker) -> None:
        async with worker:
            await asyncio.Event().wait()

    async def main() -> None:
        working = asyncio.create_task(block(flux.Worker(task, adapter=peer.adapter, system=peer.machine)))
        await asyncio.wait_for(began.wait(), SECONDS)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    began = asyncio.Event()
    task = peer.task(handler)
    peer.write(b"1")
    asyncio.run(main())
    assert done == [b"1"]
    assert peer.position() == 1


def test_a_start_that_is_cancelled_ends_the_worker(peer: Peer) -> None:
    closed: list[int] = []
    setting_up = asyncio.Event()

    async def handler(message: flux.Message) -> None: ...

    async def setup() -> None:
        setting_up.set()
        await asyncio.sleep(0.02)

    async def close() -> None:
        closed.append(1)

    task = peer.task(handler)
    task.setup, task.close = setup, close  # type: ignore[method-assign]
    worker = flux.Worker(task, adapter=peer.adapter, system=peer.machine)

    async def block() -> None:
        async with worker:
            pytest.fail("the block ran")

    async def main() -> None:
        starting = asyncio.create_task(block())
        await asyncio.wait_for(setting_up.wait(), SECONDS)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(main())
    assert worker.ended
    assert closed == [1]


def test_an_interrupt_while_the_block_ends_abandons_the_calls_and_is_raised(peer: Peer) -> None:
    began, release = threading.Event(), threading.Event()

    def handler(message: flux.Message) -> None:
        began.set()
        release.wait(SECONDS)

    worker = flux.Worker(peer.task(handler, shutdown_timeout=3600), adapter=peer.adapter, system=peer.machine)
    stop, interrupts = worker._driver.stop, [signal.SIGINT]

    def stopping() -> None:
        stop()
        if interrupts:
            signal.raise_signal(interrupts.pop())

    worker._driver.stop = stopping  # type: ignore[method-assign]
    peer.write(b"1")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), worker:
            assert began.wait(SECONDS)
        assert worker.ended
    finally:
        release.set()
        signal.signal(signal.SIGINT, before)
    assert peer.position() == 0


def test_a_worker_has_one_block(peer: Peer) -> None:
    worker = flux.Worker(peer.task(lambda message: None), adapter=peer.adapter, system=peer.machine)
    with worker:
        pass
    with pytest.raises(flux.ConfigurationError, match="works once"), worker:
        pass


def test_a_plain_block_in_an_event_loop_is_refused(peer: Peer) -> None:
    async def main() -> None:
        with flux.Worker(peer.task(lambda message: None), adapter=peer.adapter, system=peer.machine):
            pass

    with pytest.raises(flux.ConfigurationError, match="async with"):
        asyncio.run(main())


def test_a_forked_child_leaves_the_block_of_its_parent_alone(peer: Peer) -> None:
    reading, writing = os.pipe()
    with flux.Worker(peer.task(lambda message: None), adapter=peer.adapter, system=peer.machine) as worker:
        child = os.fork()
        if child == 0:
            try:
                worker.__exit__(None, None, None)
                os.write(writing, b"left")
            finally:
                os._exit(0)
        os.close(writing)
        assert os.read(reading, 10) == b"left"
        os.waitpid(child, 0)
        os.close(reading)
        assert not worker.ended

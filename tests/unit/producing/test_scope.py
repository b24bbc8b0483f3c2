"""What a call produces by the hand of other threads and tasks is a part of it, or refused."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import flux
from flux.core.errors import BrokerError, Fault
from flux.producing.scope import CarryingExecutor
from flux.testing import Kit
from unit.support.peers_support import Peer, wait_for

DENIED = BrokerError("not allowed", Fault.DENIED)


class Bills(flux.Producer):
    topic = "bills"


def bill() -> None:
    Bills.produce(b"bill")


def refuse_bills(kit: Kit) -> None:
    kit.broker().fail_writes(lambda topic, partition, record: DENIED if topic == "bills" else None)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


# ---- threads


def in_a_pool(pool: ThreadPoolExecutor) -> None:
    pool.submit(flux.carry(bill)).result(60)


def by_a_map(pool: ThreadPoolExecutor) -> None:
    def numbered(number: int) -> None:
        bill()

    list(pool.map(flux.carry(numbered), range(3)))


def in_a_thread(pool: ThreadPoolExecutor) -> None:
    thread = threading.Thread(target=flux.carry(bill))
    thread.start()
    thread.join(60)


def in_a_pool_of_a_pool(pool: ThreadPoolExecutor) -> None:
    pool.submit(flux.carry(lambda: in_a_pool(pool))).result(60)


def sent(pool: ThreadPoolExecutor) -> None:
    pool.submit(flux.carry(lambda: Bills.send(b"bill"))).result(60)


THREADS = [in_a_pool, by_a_map, in_a_thread, in_a_pool_of_a_pool, sent]


@pytest.mark.parametrize("way", THREADS)
def test_what_is_carried_to_a_thread_fails_the_call_when_it_is_not_delivered(
    flux_kit: Kit, pool: ThreadPoolExecutor, way: Callable[[ThreadPoolExecutor], None]
) -> None:
    refuse_bills(flux_kit)
    flux_kit.produce("orders", "x")
    done = flux_kit.run(flux.task(topic="orders", group_id="g", retries=1)(lambda message: way(pool)))
    assert (done.done, done.failed) == (0, 1)


@pytest.mark.parametrize("way", THREADS)
def test_what_is_carried_to_a_thread_is_delivered_before_the_position_moves(
    way: Callable[[ThreadPoolExecutor], None], pool: ThreadPoolExecutor
) -> None:
    peer = Peer()
    peer.broker.create_topic("bills")
    Bills.adapter = peer.adapter
    Bills.options = flux.ProducerOptions(flush_interval=3600)
    try:
        task = peer.task(lambda message: way(pool))
        peer.write(b"x")
        with peer.working(task):
            wait_for(lambda: peer.position() == 1, "the position")
            assert set(peer.values("bills")) == {b"bill"}
    finally:
        Bills.close()
        del Bills.adapter, Bills.options


# ---- what an event loop carries by itself


async def to_a_thread() -> None:
    await asyncio.to_thread(bill)


async def to_an_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, bill)


async def to_a_task() -> None:
    async def produce() -> None:
        bill()

    await asyncio.create_task(produce())


async def to_a_carried_executor() -> None:
    with ThreadPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, flux.carry(bill))


@pytest.mark.parametrize("way", [to_a_thread, to_an_executor, to_a_task, to_a_carried_executor])
def test_an_event_loop_carries_a_call_to_what_it_starts(flux_kit: Kit, way: Callable[[], Any]) -> None:
    async def call(message: flux.Message) -> None:
        await way()

    refuse_bills(flux_kit)
    flux_kit.produce("orders", "x")
    assert flux_kit.run(flux.task(topic="orders", group_id="g", retries=1)(call)).failed == 1


@pytest.mark.parametrize("way", [to_a_thread, to_an_executor, to_a_task])
def test_a_workers_own_loop_carries_a_call_to_its_executor_too(way: Callable[[], Any]) -> None:
    peer = Peer()
    peer.broker.create_topic("bills")
    peer.broker.fail_writes(lambda topic, partition, record: DENIED if topic == "bills" else None)
    Bills.adapter = peer.adapter

    async def call(message: flux.Message) -> None:
        await way()

    try:
        task = peer.task(call, retries=0)
        peer.write(b"x")
        with peer.working(task):
            wait_for(lambda: peer.values("t-g-dlq"), "the dead letter")
    finally:
        Bills.close()
        del Bills.adapter


def test_the_loops_threads_take_arguments_as_others_do() -> None:
    def add(a: int, *, b: int) -> tuple[int, bool]:
        return a + b, threading.current_thread() is threading.main_thread()

    with CarryingExecutor(1) as pool:
        assert pool.submit(add, 1, b=2).result(60) == (3, False)


# ---- too late


def test_what_is_carried_beyond_its_call_is_refused_and_named(
    flux_kit: Kit, caplog: pytest.LogCaptureFixture, pool: ThreadPoolExecutor
) -> None:
    gate = threading.Event()
    late: list[Future[None]] = []

    def waiting() -> None:
        gate.wait(60)
        bill()

    def call(message: flux.Message) -> None:
        late.append(pool.submit(flux.carry(waiting)))
        late.append(pool.submit(flux.carry(waiting)))
        late.append(pool.submit(flux.carry(bill)))  # it begins when the others have ended

    flux_kit.produce("orders", "x")
    flux_kit.produce("orders", "y")
    with caplog.at_level(logging.ERROR, "flux.producer"):
        assert flux_kit.run(flux.task(topic="orders", group_id="g")(call)).done == 2
        gate.set()
        for each in late:
            with pytest.raises(flux.ConfigurationError, match="runs after its call has ended: wait in the call"):
                each.result(60)
    assert "waiting runs after its call has ended" in caplog.text
    assert flux_kit.topic("bills").values == []


def test_what_inherits_an_ended_calls_context_is_no_part_of_it_and_named_once(
    flux_kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[asyncio.Task[None]] = []

    async def later(gate: asyncio.Event) -> None:
        await gate.wait()
        bill()
        await asyncio.sleep(0)
        Bills.send(b"bill")

    async def work() -> None:
        gate = asyncio.Event()

        async def call(message: flux.Message) -> None:
            Bills.produce(b"in time")
            begun.append(asyncio.create_task(later(gate)))

        done = await flux_kit.arun(flux.task(topic="orders", group_id="g")(call))
        assert done.done == 1
        refuse_bills(flux_kit)
        gate.set()
        await begun[0]
        with pytest.raises(flux.DeliveryError, match="2 record"):
            Bills.flush()

    flux_kit.produce("orders", "x")
    asyncio.run(work())
    assert caplog.text.count("topic bills: code that a call started produces after its end") == 1


def test_what_outlives_its_call_is_not_the_next_calls(flux_kit: Kit, pool: ThreadPoolExecutor) -> None:
    gates: list[threading.Event] = []
    late: list[Future[None]] = []

    def waiting(gate: threading.Event) -> None:
        gate.wait(60)
        bill()

    def call(message: flux.Message) -> None:
        if gates:
            gates[0].set()
            late[0].exception(10)
        else:
            gates.append(threading.Event())
            late.append(pool.submit(flux.carry(waiting), gates[0]))

    refuse_bills(flux_kit)
    flux_kit.produce("orders", "x")
    flux_kit.produce("orders", "y")
    assert flux_kit.run(flux.task(topic="orders", group_id="g")(call)).done == 2
    assert isinstance(late[0].exception(10), flux.ConfigurationError)


# ---- where nothing is to be carried


def test_outside_a_call_a_function_stays_as_it_is() -> None:
    assert flux.carry(bill) is bill


def test_where_nothing_is_acknowledged_nothing_is_carried(flux_kit: Kit) -> None:
    same: list[bool] = []
    flux_kit.produce("orders", "x")
    task = flux.task(topic="orders", group_id="g", acknowledge_produced=False)
    flux_kit.run(task(lambda message: same.append(flux.carry(bill) is bill)))
    assert same == [True]


def test_a_carried_function_looks_as_it_did(flux_kit: Kit) -> None:
    seen: list[str] = []
    flux_kit.produce("orders", "x")
    flux_kit.run(flux.task(topic="orders", group_id="g")(lambda message: seen.append(flux.carry(bill).__name__)))
    assert seen == ["bill"]


def test_a_coroutine_function_is_refused() -> None:
    async def produce() -> None: ...

    with pytest.raises(flux.ConfigurationError, match="a coroutine has its call already"):
        flux.carry(produce)

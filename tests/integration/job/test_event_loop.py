"""Tasks in an event loop: handlers that are awaited, clients of asyncio, and both with what is not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import flux
from integration.job.support import SECONDS, Lab, flux_headers, own

SCHEMES = ["confluent", "aiokafka"]


async def wait_until(true: Callable[[], object], what: str) -> None:
    until = time.monotonic() + SECONDS
    while not await asyncio.to_thread(true):
        assert time.monotonic() < until, f"not within {SECONDS:g} s: {what}"
        await asyncio.sleep(0.02)


async def settle(lab: Lab, task: type[flux.Task] | flux.Task) -> None:
    await wait_until(lambda: lab.settled(task), f"every stage of {task.topic} is worked")


def worker(lab: Lab, scheme: str, task: type[flux.Task] | flux.Task) -> flux.Worker:
    return flux.Worker(task, adapter=f"{scheme}://{lab.bootstrap}")


async def beside(running: flux.Worker, test: Awaitable[Any]) -> int:
    """Runs `test` while the worker works in the same loop; the worker's exit code."""
    work = asyncio.create_task(running.run_async())
    try:
        await test
    finally:
        running.stop()
        code = await asyncio.wait_for(work, 40)
    return code


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_awaited_handler_runs_in_the_callers_loop_and_its_failures_reach_the_dead_letters(
    lab: Lab, scheme: str
) -> None:
    attempts: Counter[bytes] = Counter()
    threads: set[int] = set()

    async def handler(message: flux.Message) -> None:
        threads.add(threading.get_ident())
        await asyncio.sleep(0.005)
        attempts[message.value] += 1
        if message.value == b"bad" or (message.value == b"flaky" and message.attempt == 1):
            raise ConnectionError("away")
        if message.value == b"wrong":
            raise flux.Reject("no such customer")

    task = lab.task(handler, retries=2, partitions=2)
    headers = [("a", b"1"), ("a", b"2")]
    lab.write(task.topic, *((value, b"key", headers) for value in (b"good", b"bad", b"flaky", b"wrong")))
    code = asyncio.run(beside(worker(lab, scheme, task), settle(lab, task)))
    assert code == 0
    assert threads == {threading.get_ident()}
    assert attempts == {b"good": 1, b"bad": 3, b"flaky": 2, b"wrong": 1}
    dead = {message.value(): message for message in lab.dead(task)}
    assert dead.keys() == {b"bad", b"wrong"}
    assert all((own(message), message.key()) == (headers, b"key") for message in dead.values())
    assert {value: flux_headers(message)["flux-reason"] for value, message in dead.items()} == {
        b"bad": b"exhausted",
        b"wrong": b"rejected",
    }


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_thousand_calls_are_in_flight_and_those_of_a_key_keep_their_order(lab: Lab, scheme: str) -> None:
    inside: Counter[bytes | None] = Counter()
    done: dict[bytes | None, list[int]] = defaultdict(list)
    most = 0

    async def handler(message: flux.Message) -> None:
        nonlocal most
        inside[message.key] += 1
        most = max(most, inside.total())
        assert inside[message.key] == 1
        await asyncio.sleep(0.2)
        inside[message.key] -= 1
        done[message.key].append(int(message.value))

    task = lab.task(handler, retries=0, partitions=2, concurrency=1500)
    lab.write(task.topic, *((b"%d" % n, b"key-%d" % (n % 1500)) for n in range(4500)))
    code = asyncio.run(beside(worker(lab, scheme, task), settle(lab, task)))
    assert code == 0
    assert most >= 1000
    assert sum(map(len, done.values())) == 4500
    assert all(values == sorted(values) for values in done.values())
    assert lab.dead(task) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_loop_goes_on_beside_calls_in_flight(lab: Lab, scheme: str) -> None:
    turns = 0
    passed: list[int] = []

    async def handler(message: flux.Message) -> None:
        before = turns
        await asyncio.sleep(0.1)
        passed.append(turns - before)

    task = lab.task(handler, retries=0, concurrency=100)
    lab.write(task.topic, *(b"%d" % n for n in range(200)))

    async def watch() -> None:
        nonlocal turns
        settled = asyncio.create_task(settle(lab, task))
        while not settled.done():
            await asyncio.sleep(0.001)
            turns += 1
        await settled

    assert asyncio.run(beside(worker(lab, scheme, task), watch())) == 0
    assert len(passed) == 200
    assert min(passed) > 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_cancelled_worker_ends_its_calls_commits_and_leaves(lab: Lab, scheme: str) -> None:
    began, ended = asyncio.Event(), []

    async def handler(message: flux.Message) -> None:
        began.set()
        await asyncio.sleep(0.3)
        ended.append(message.value)

    task = lab.task(handler, retries=0)
    lab.write(task.topic, b"one")

    async def main() -> None:
        work = asyncio.create_task(worker(lab, scheme, task).run_async())
        await asyncio.wait_for(began.wait(), SECONDS)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(work), 40)

    asyncio.run(main())
    assert ended == [b"one"]
    assert lab.worked(task, 0)
    assert lab.members(task.group_id) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_call_that_outlives_the_stop_is_cancelled_and_never_counts_even_if_it_swallows_that(
    lab: Lab, scheme: str
) -> None:
    began, swallowed = asyncio.Event(), []

    async def handler(message: flux.Message) -> None:
        if message.value == b"quick":
            return
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed.append(message.value)

    task = lab.task(handler, retries=0, shutdown_timeout=0.3)
    lab.write(task.topic, b"quick", b"endless")

    async def stop_in_the_call() -> None:
        await asyncio.wait_for(began.wait(), SECONDS)

    code = asyncio.run(beside(worker(lab, scheme, task), stop_in_the_call()))
    assert code == 0
    assert swallowed == [b"endless"]
    assert lab.committed_offsets(task.group_id, task.topic)[0].offset == 1
    assert lab.dead(task) == []


def test_a_plain_handler_on_a_client_of_asyncio_runs_in_threads(lab: Lab) -> None:
    threads: set[str] = set()
    done: Counter[bytes] = Counter()
    lock = threading.Lock()

    def handler(message: flux.Message) -> None:
        time.sleep(0.01)
        with lock:
            threads.add(threading.current_thread().name)
            done[message.value] += 1
        if message.value == b"7" and message.stage == 0:
            raise ValueError("once")

    task = lab.task(handler, partitions=2, concurrency=8)
    lab.write(task.topic, *((b"%d" % n, b"key-%d" % n) for n in range(200)))
    with lab.running(task, adapter=f"aiokafka://{lab.bootstrap}"):
        lab.settle(task)
    assert done == Counter({b"%d" % n: 1 for n in range(200)}) + Counter({b"7": 1})
    assert 1 < len(threads) <= 8
    assert lab.dead(task) == []


def test_what_an_awaited_call_produces_is_acknowledged_first(lab: Lab) -> None:
    class Out(flux.Producer):
        topic = lab.make_topic(1)
        adapter = f"confluent://{lab.bootstrap}"

    async def handler(message: flux.Message) -> None:
        Out.produce(b"from " + message.value)

    task = lab.task(handler, retries=0)
    lab.write(task.topic, *(b"%d" % n for n in range(50)))
    assert asyncio.run(beside(worker(lab, "aiokafka", task), settle(lab, task))) == 0
    assert Counter(message.value() for message in lab.read(Out.topic)) == Counter(b"from %d" % n for n in range(50))


def test_members_by_asyncio_share_partitions_come_and_go_and_lose_nothing(lab: Lab) -> None:
    done: Counter[bytes] = Counter()

    async def handler(message: flux.Message) -> None:
        await asyncio.sleep(0.002)
        done[message.value] += 1

    task = lab.task(handler, retries=0, partitions=4, concurrency=20)
    values = [b"%d" % n for n in range(3000)]
    lab.write(task.topic, *((value, value) for value in values))

    async def come_and_go() -> None:
        for _ in range(2):
            other = worker(lab, "aiokafka", task)
            await beside(other, asyncio.sleep(1.0))
        await settle(lab, task)

    assert asyncio.run(beside(worker(lab, "aiokafka", task), come_and_go())) == 0
    assert done == Counter(values)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_calls_that_hold_all_threads_of_the_loops_executor_hold_neither_retries_nor_polling(
    lab: Lab, scheme: str
) -> None:
    release = threading.Event()
    began = threading.Semaphore(0)

    async def handler(message: flux.Message) -> None:
        if message.value == b"waits":
            began.release()
            await asyncio.to_thread(release.wait, 60)
        else:
            raise ValueError

    task = lab.task(handler, concurrency=100)
    lab.write(task.topic, *[b"waits"] * 60)

    async def test() -> None:
        try:
            await _soon(lambda: began.acquire(blocking=False), 60)
            lab.write(task.topic, b"fails")
            await _soon(lambda: any(lab.ends(lab.dead_topic(task)).values()), 1)
        finally:
            release.set()
        await settle(lab, task)

    assert asyncio.run(beside(worker(lab, scheme, task), test())) == 0


async def _soon(true: Callable[[], bool], times: int) -> None:
    """As `wait_until`, with no thread of the executor."""
    until = time.monotonic() + SECONDS
    while times:
        assert time.monotonic() < until
        times -= true()
        await asyncio.sleep(0.02)

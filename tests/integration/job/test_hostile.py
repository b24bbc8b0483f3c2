"""Calls that end oddly: exceptions that cannot be described, panics, work left undone, cancellations that leak. In all
four ways, their records move and the others go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import flux
from integration.job.support import Lab, flux_headers
from integration.job.ways import WAYS, Way


class Panic(BaseException):
    """As pyo3's."""


class NoAttributes(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


async def leaks() -> None:
    inner = asyncio.create_task(asyncio.sleep(10))
    await asyncio.sleep(0)
    inner.cancel()
    await inner


async def unawaited() -> None: ...


def generates() -> Iterator[None]:
    yield


def end(value: bytes) -> Any:
    """What the call returns or raises."""
    match value:
        case b"bytes in a SyntaxError":
            raise SyntaxError("bad", ("f.py", 1, 1, b"text"))  # type: ignore[arg-type]
        case b"no module":
            raise type("NoModule", (Exception,), {"__module__": None})("x")
        case b"no attributes":
            raise NoAttributes
        case b"panic":
            raise Panic("called unwrap on None")
        case b"coroutine":
            return unawaited()
        case b"generator":
            return generates()


ENDS = {
    b"bytes in a SyntaxError": b"SyntaxError",
    b"no module": b"NoModule",
    b"no attributes": b"integration.job.test_hostile.NoAttributes",
    b"panic": b"integration.job.test_hostile.Panic",
    b"coroutine": b"flux.NotAwaited",
    b"generator": b"flux.NotAwaited",
    b"cancelled": b"flux.SubtaskCancelled",
}


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_calls_that_end_oddly_move_their_records_and_no_other(lab: Lab, way: Way) -> None:
    done: Counter[bytes] = Counter()

    def call(message: flux.Message) -> Any:
        if message.value == b"cancelled":
            asyncio.run(leaks())
        returned = end(message.value)
        done[message.value] += returned is None
        return returned

    async def call_async(message: flux.Message) -> Any:
        if message.value == b"cancelled":
            await leaks()
        returned = end(message.value)
        done[message.value] += returned is None
        return returned

    task = lab.task(call_async if way.awaited else call, retries=1, wait=0.1, reject_on=(Panic,))
    values = [*ENDS, b"good", b"better"]
    lab.write(task.topic, *((value, value) for value in values))
    lab.work(task, adapter=way.adapter(lab.bootstrap))
    assert {message.value(): flux_headers(message)["flux-error-type"] for message in lab.dead(task)} == ENDS
    assert +done == {b"good": 1, b"better": 1}
    assert lab.committed_offsets(task.group_id, task.topic)[0].offset == len(values)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_a_call_has_other_threads_produce_is_a_part_of_it(lab: Lab, way: Way) -> None:
    target = lab.make_topic(2, max_message_bytes=1000)
    pool = ThreadPoolExecutor(2)

    class Results(flux.Producer):
        topic = target
        adapter = f"{way.scheme}://{lab.bootstrap}"

    def produce(value: bytes) -> None:
        large = value.startswith(b"large")
        Results.produce(b"x" * (5000 if large else 10), partition=int(large))

    def call(message: flux.Message) -> None:
        pool.submit(flux.carry(produce), message.value).result(60)

    async def call_async(message: flux.Message) -> None:
        loop = asyncio.get_running_loop()
        match message.value:
            case b"large, in a thread":
                await asyncio.to_thread(produce, message.value)
            case b"large, in a pool":
                await loop.run_in_executor(pool, flux.carry(produce), message.value)
            case _:
                await loop.run_in_executor(None, produce, message.value)

    task = lab.task(call_async if way.awaited else call, retries=0)
    large = [b"large, in a thread", b"large, in a pool", b"large, in an executor"]
    lab.write(task.topic, *large, b"small")
    lab.work(task, adapter=way.adapter(lab.bootstrap))
    assert sorted(message.value() for message in lab.dead(task)) == sorted(large)
    assert [message.value() for message in lab.read(target)] == [b"x" * 10]
    Results.close()
    pool.shutdown()

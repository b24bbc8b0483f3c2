"""Records that were replaced or cancelled are left out of calls, in both forms, alone and in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest

import flux
from flux.consuming.awaited import named_calls as awaited_calls
from flux.consuming.blocking import named_calls as blocking_calls
from flux.core.engine.verdicts import BatchFailure
from flux.core.flux_headers import FluxHeaders
from flux.core.message import Message
from flux.core.named_work import NamedWork
from flux.testing import Kit
from unit.support.engine_support import record

Calling = Callable[[Callable[[Any], Any], Any, bool], Any]


def of(offset: int, void: bool | None = None) -> Message:
    """`void` None: a record without a name."""
    named = None if void is None else NamedWork("id", str(offset))
    if named is not None:
        named.void = bool(void)
    return Message.of(record(offset), b"v", FluxHeaders(stage=1, attempts=0, named=named))


def blocking(function: Callable[[Any], Any], given: Any, batched: bool) -> Any:
    return (blocking_calls.of_wanted_in_batch if batched else blocking_calls.of_wanted)(function, None)(given)


def awaited(function: Callable[[Any], Any], given: Any, batched: bool) -> Any:
    async def handler(given: Any) -> Any:
        return function(given)

    async def main() -> Any:
        return await (awaited_calls.of_wanted_in_batch if batched else awaited_calls.of_wanted)(handler, None)(given)

    return asyncio.run(main())


both = pytest.mark.parametrize("calling", [blocking, awaited])


@both
def test_a_void_record_is_not_called(calling: Calling) -> None:
    seen: list[int] = []
    for message in (of(0), of(1, void=True), of(2, void=False)):
        assert calling(lambda given: seen.append(given.offset), message, False) is None
    assert seen == [0, 2]


@both
def test_a_batch_is_called_without_its_void_records(calling: Calling) -> None:
    seen: list[list[int]] = []

    def call(messages: Sequence[Message]) -> None:
        seen.append([each.offset for each in messages])

    calling(call, [of(0), of(1, void=True), of(2, void=False)], True)
    calling(call, [of(3, void=True)], True)
    calling(call, [of(4), of(5, void=False)], True)
    assert seen == [[0, 2], [4, 5]]


@both
def test_void_records_do_not_fail_with_their_batch(calling: Calling) -> None:
    def call(messages: Sequence[Message]) -> None:
        raise ValueError("bad")

    messages = [of(0), of(1, void=True), of(2)]
    with pytest.raises(BatchFailure) as raised:
        calling(call, messages, True)
    assert set(raised.value.failures) == {messages[0], messages[2]}


@both
def test_an_interrupt_in_a_batch_stays_one(calling: Calling) -> None:
    def call(messages: Sequence[Message]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calling(call, [of(0), of(1, void=True)], True)


class Outputs(flux.Producer):
    topic = "outputs"


class Failing(flux.BatchTask):
    topic, group_id, retries = "batches", "g", 1
    max_batch, max_wait = 10, 0.1
    sizes: ClassVar[list[int]] = []

    def call(self, messages: Sequence[flux.Message]) -> None:
        self.sizes.append(len(messages))
        Outputs.produce(b"of a call that fails")
        raise ValueError


class FailingAwaited(Failing):
    async def call(self, messages: Sequence[flux.Message]) -> None:  # type: ignore[override]
        super().call(messages)


@pytest.mark.parametrize("task", [Failing, FailingAwaited])
def test_a_batch_that_fails_beside_void_records_produces_nothing(task: type[Failing], flux_kit: Kit) -> None:
    Failing.sizes.clear()
    for value in (b"old", b"new"):
        task.enqueue(value, delay=5, id="a").result(10)
    flux_kit.run_to_the_end(task)
    assert Failing.sizes == [1]
    assert flux_kit.dead_letters(task).values == [b"new"]
    assert flux_kit.topic("outputs").values == []

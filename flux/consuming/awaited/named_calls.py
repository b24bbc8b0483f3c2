"""Calls of the first retry stage, whose records may have names: those that were replaced or cancelled are left out, and
before a tick of a schedule is called, the next one is written.

This stands around everything else, so nothing is called for them: no hook, no middleware.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from flux.consuming.call_chain import PROCESS, Handler, with_others
from flux.consuming.call_results import Work
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.core.engine.runs import Run
from flux.core.message import Message
from flux.core.named_work import NamedWork
from flux.core.schedules import Step, Tick
from flux.producing.produced import Scopes
from flux.system.return_values import check_returned


class Ticks(Protocol):
    """A task's schedules: see `flux.schedules`."""

    def start(self) -> None: ...
    def step(self, named: NamedWork) -> Step: ...
    async def await_next(self, named: NamedWork, message: Message, tick: Tick) -> None: ...


def leaving_out(work: Work, batched: bool, ticks: Ticks | None) -> Work:
    """`work`, whose handler is not called with records that are void. `batched`: it takes many messages."""
    wanted = of_wanted_in_batch if batched else of_wanted

    def work_named(
        coordinator: Coordinator, runtime: StageRuntime, run: Run, handler: Handler, scopes: Scopes | None
    ) -> Any:
        if runtime.engine.stage.has_names:
            handler = wanted(handler, ticks)
        return work(coordinator, runtime, run, handler, scopes)

    return work_named


def of_wanted(handler: Handler, ticks: Ticks | None) -> Handler:
    """`handler`, which is not called with a record that is void."""

    def call(message: Message) -> Any:
        named = message.named
        return handler(message) if named is None else call_named(message, named)

    async def call_named(message: Message, named: NamedWork) -> Any:
        return await handler(message) if await begins(message, named, ticks) else None

    return call


def of_wanted_in_batch(handler: Handler, ticks: Ticks | None) -> Handler:
    """`handler`, which gets a batch without the records that are void."""

    async def call(messages: Sequence[Message]) -> Any:
        wanted = [each for each in messages if each.named is None or await begins(each, each.named, ticks)]
        if len(wanted) == len(messages):
            return await handler(messages)
        try:
            if wanted:
                check_returned("call", await handler(wanted))
        except PROCESS:
            raise
        except BaseException as error:
            raise with_others({}, wanted, error) from error

    return call


async def begins(message: Message, named: NamedWork, ticks: Ticks | None) -> bool:
    """Whether to call a record with a name now. Before the call of a tick the next one is written."""
    call = named.begin()
    if call and named.kind == "schedule":
        if ticks is None:
            return False
        step = ticks.step(named)
        if step.then is not None:
            await ticks.await_next(named, message, step.then)
        call = step.call
    named.left_out = not call
    return call

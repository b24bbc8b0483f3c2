"""Everything that makes calls in this form: the executor's functions, and what wraps a handler once, at the start.

A handler is wrapped only if a hook wants calls, or if the messages of a batch need steps before its call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from flux.consuming.awaited.executor import work, work_batch
from flux.consuming.awaited.named_calls import leaving_out
from flux.consuming.call_chain import PROCESS, Handler, Step, sorted_out, with_others
from flux.consuming.call_results import AsyncCall, Work
from flux.consuming.call_timing import Meter, clock
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.hook_dispatch import AroundCalls, BatchCall, HookDispatch
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import BatchFailure
from flux.core.message import Message
from flux.producing.produced import Scopes
from flux.system.return_values import check_returned, own_failure

__all__ = ["leaving_out", "measured", "notifying", "noting", "prepared_batch", "work", "work_batch"]


def notifying(hook_dispatch: HookDispatch, handler: Handler, batched: bool = False) -> Handler:
    """`handler`, wrapped so that hooks are notified of each call; unchanged if no hook wants calls. `batched`: it takes
    many messages, and hooks are notified of each."""
    if not hook_dispatch.sees_calls(batched):
        return handler
    if batched:
        return _notifying_batch(hook_dispatch, handler)
    alone = hook_dispatch.alone()
    return _notifying_each(hook_dispatch, handler) if alone is None else _around_each(hook_dispatch, alone, handler)


def _around_each(hook_dispatch: HookDispatch, hook: AroundCalls, handler: Handler) -> Handler:
    place, enter, leave = hook_dispatch.of, hook.enter, hook.leave

    async def call(message: Message) -> Any:
        try:
            entered = enter(place, message)
        except BaseException as error:
            hook_dispatch.went_wrong(hook, error)
            return await handler(message)
        try:
            result = await handler(message)
            if result is not None:
                check_returned("call", result)
        except BaseException as error:
            raised = own_failure(error)
            hook_dispatch.leave_failed(hook, entered, raised)
            if raised is not error:
                raise raised from error
            raise
        try:
            leave(entered)
        except BaseException as error:
            hook_dispatch.went_wrong(hook, error)
        return result

    return call


def noting(handler: Handler, note: Callable[[Any, BaseException], None]) -> Handler:
    """`handler`; `note` is called with its argument and its exception if it raises."""

    async def call(called: Any) -> Any:
        try:
            returned = await handler(called)
            check_returned("call", returned)
            return returned
        except BaseException as error:
            note(called, error)
            raise

    return call


def _notifying_each(hook_dispatch: HookDispatch, handler: Handler) -> Handler:
    places, of, tell, failed, clock = (
        hook_dispatch.places,
        hook_dispatch.of,
        hook_dispatch.notify,
        hook_dispatch.call_failed,
        time.perf_counter,
    )
    enter, leave = hook_dispatch.entering(), hook_dispatch.leave
    starts, ends = hook_dispatch.wants("on_start"), hook_dispatch.wants("on_success")

    async def call(message: Message) -> Any:
        stage = message.stage
        where = places.get(stage) or of(stage)
        entered = enter(where, message) if enter is not None else ()
        began = clock()
        if starts:
            tell("on_start", where, message)
        try:
            result = await handler(message)
            if result is not None:
                check_returned("call", result)
            if ends:
                tell("on_success", where, message, clock() - began)
        except BaseException as error:
            raised = own_failure(error)
            failed(where, message, raised, clock() - began, entered)
            if raised is not error:
                raise raised from error
            raise
        if entered:
            leave(entered, None)
        return result

    return call


def _notifying_batch(hook_dispatch: HookDispatch, handler: Handler) -> Handler:
    async def call(messages: Sequence[Message]) -> Any:
        batch = BatchCall(hook_dispatch, messages)
        try:
            result = await handler(messages)
            check_returned("call", result)
        except BaseException as error:
            batch.ended(error)
            raise
        batch.ended(None)
        return result

    return call


def prepared_batch(handler: Handler, steps: Sequence[Step]) -> Handler:
    """`handler` after `steps`, none of which waits. A message that a step refuses fails alone; others are called."""
    if not steps:
        return handler

    async def call(messages: Sequence[Message]) -> Any:
        good, bad = sorted_out(messages, steps)
        if not bad:
            return await handler(good)
        try:
            if good:
                check_returned("call", await handler(good))
        except PROCESS:
            raise
        except BaseException as error:
            raise with_others(bad, good, error) from error
        raise BatchFailure(bad)

    return call


def around(meter: Meter, handler: Handler) -> Handler:
    """`handler`, measured by `meter`."""
    ended, failed = meter.ends.append, meter.failed

    async def call(message: Any) -> Any:
        try:
            returned = await handler(message)
            if returned is not None:
                check_returned("call", returned)
        except BaseException as error:
            failed(message, error)
            raise
        ended(clock())
        return returned

    return call


def measured(work: Work, coordinator: Coordinator, handler: Handler, scopes: Scopes | None) -> AsyncCall:
    """Makes the calls of runs as `work` does, and calls `Hooks.on_calls` for each run."""

    async def call(runtime: StageRuntime, run: Run) -> BaseException | None:
        meter = Meter(run, coordinator.policy.rules, coordinator.system.now())
        try:
            return await work(coordinator, runtime, run, around(meter, handler), scopes)  # type: ignore[no-any-return]
        finally:
            coordinator.hook_dispatch.notify("on_calls", runtime.where, meter.report())

    return call

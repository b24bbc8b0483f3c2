"""The wrappers around a task's call, outermost first: expiry, deserializer, time limit, middleware.

A wrapper that a task does not use is left out: without any, the handler is the call itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CoroutineType
from typing import Any

from flux.core.engine.expiry import expires
from flux.core.engine.verdicts import (
    BatchFailure,
    Expired,
    NotAwaited,
    Pause,
    Reject,
    Retry,
    Skipped,
    Tombstone,
    Undecodable,
)
from flux.core.error_text import brief
from flux.core.errors import ConfigurationError
from flux.core.message import Message
from flux.system import forks
from flux.system.return_values import (
    check_function,
    check_returned,
    drop,
    is_async,
    is_unfinished,
    own_failures,
    takes,
)

PROCESS = (KeyboardInterrupt, SystemExit, GeneratorExit)

Handler = Callable[[Any], Any]
"""A task's `call` with a message, or a batch task's with a list of them; awaitable for a coroutine function."""
Middleware = Callable[[Any, Handler], Any]
"""(message, call_next) -> the result of `call_next(message)`, if called; for a batch task: (messages, call_next)."""
Step = Callable[[Message], None]
"""A step before the call of a message; raises to fail the record without a call."""


def surrounded(handler: Handler, middleware: Sequence[Middleware], awaited: bool = False) -> Handler:
    """`handler` with `middleware` around it, the first outermost. `awaited`: whether their results are awaited."""
    for each in reversed(middleware):
        handler = ending_children(handler, awaited)
        handler = _around_async(each, handler) if awaited else _around(each, handler)
    return handler


def ending_children(handler: Handler, awaited: bool) -> Handler:
    """`handler`; a child that was forked in it, or in what calls it, ends there."""
    made = forks.generation

    def call(called: Any) -> Any:
        if forks.generation != made:
            forks.end_of_child()
        try:
            return handler(called)
        finally:
            if forks.generation != made:
                forks.end_of_child()

    async def call_async(called: Any) -> Any:
        try:
            return await call(called)
        finally:
            if forks.generation != made:
                forks.end_of_child()

    return call_async if awaited else call


def _around(middleware: Middleware, handler: Handler) -> Handler:
    def call_next(message: Any) -> Any:
        returned = handler(message)
        if returned is not None:
            check_returned("call", returned)
        return returned

    return partial(_called, middleware, call_next)


def _called(middleware: Middleware, call_next: Handler, message: Any) -> Any:
    return middleware(message, call_next)


def _around_async(middleware: Middleware, handler: Handler) -> Handler:
    async def call(message: Any) -> Any:
        begun: list[object] = []

        def call_next(message: Any) -> Any:
            begun.append(made := handler(message))
            return made

        try:
            returned = await middleware(message, call_next)
        except BaseException:
            for each in begun:
                drop(each)
            raise
        for each in begun:
            if is_unfinished(each):
                drop(each)
                raise NotAwaited(f"{_shown(middleware)} has ended, and did not await what call_next gave it")
        return returned

    return call


def check_middleware(name: str, middleware: object, awaited: bool) -> tuple[Middleware, ...]:
    """A task's middleware. Raises ConfigurationError for an object that cannot be called."""
    if isinstance(middleware, str) or not isinstance(middleware, Sequence):
        raise ConfigurationError(f"{name}.middleware must be a list of callables (message, call_next)")
    for each in middleware:
        what = f"{name}.middleware: {_shown(each)}"
        if not awaited and callable(each) and is_async(each):
            raise ConfigurationError(f"{what} is a coroutine function, and the call is not: make both the same")
        check_function(what, each, "message, call_next", awaited)
    return tuple(middleware)


def check_task(name: str, task: Any, awaited: bool, batched: bool) -> None:
    """Raises ConfigurationError, in one line, for a task's function that could never work. `awaited`: whether its call
    is awaited; `batched`: whether it takes many messages."""
    check_function(f"{name}.call", task.call, "messages" if batched else "message", True)
    for each in ("setup", "close"):
        if is_async(function := getattr(task, each)) and not awaited:
            raise ConfigurationError(
                f"{name}.{each} is a coroutine function, which is never awaited because call is none: make both async"
                " def, or both plain def"
            )
        check_function(f"{name}.{each}", function, "", awaited)
    decoder = task.decoder()
    if decoder is not None:
        if not takes(decoder, 1) and takes(decoder, 2):
            raise ConfigurationError(
                f"{name}.deserializer takes two arguments, as a method does: it gets the bytes only, so put"
                " @staticmethod before it, or give a function of one argument"
            )
        check_function(f"{name}.deserializer", decoder, "bytes", False)


def _shown(middleware: Any) -> str:
    return str(getattr(middleware, "__qualname__", type(middleware).__qualname__))


def decoding(deserializer: Callable[[bytes | None], Any]) -> Step:
    """Deserializes a message's value; if that fails, the handler is not called."""

    made = forks.generation

    def decode(message: Message) -> None:
        try:
            message.value = value = deserializer(message.value)
            if forks.generation != made:
                forks.end_of_child()
            if type(value) is CoroutineType:
                check_returned("deserializer", value)
        except (Reject, Retry, Pause, Tombstone, MemoryError):
            raise  # decides about the record itself, as when a schema registry is unavailable, or about the process
        except Exception as error:
            raise Undecodable(brief(error)) from error

    return decode


def expiring(give_up_after: float, now: Callable[[], float]) -> Step:
    """Fails records that have expired."""

    def check(message: Message) -> None:
        if expires(message, give_up_after, now()):
            raise Expired(f"older than give_up_after = {give_up_after:g} s")

    return check


def skipping(skips: Mapping[tuple[int, int, int], str]) -> Step:
    """Fails the records of `skips`: (stage, partition, offset) -> why."""

    def check(message: Message) -> None:
        if skips and (why := skips.get((message.stage, message.partition, message.offset))) is not None:
            raise Skipped(why)

    return check


def prepared(handler: Handler, steps: Sequence[Step]) -> Handler:
    """`handler` after `steps`, which are not awaited."""
    for step in reversed(steps):
        handler = _after(step, handler)
    return handler


def _after(step: Step, handler: Handler) -> Handler:
    def call(message: Message) -> Any:
        step(message)
        return handler(message)

    return call


def sorted_out(
    messages: Sequence[Message], steps: Sequence[Step]
) -> tuple[list[Message], dict[Message, BaseException]]:
    """The messages of a batch that passed the steps, and those that a step refused."""
    good: list[Message] = []
    bad: dict[Message, BaseException] = {}
    for message in messages:
        try:
            for step in steps:
                step(message)
        except PROCESS:
            raise
        except BaseException as error:
            bad[message] = error
        else:
            good.append(message)
    return good, bad


def with_others(bad: dict[Message, BaseException], good: list[Message], error: BaseException) -> BatchFailure:
    """The failure of a batch whose steps refused some messages and whose call with the others raised."""
    return BatchFailure({**bad, **own_failures(good, error)})


def limited(handler: Handler, timeout: float) -> Handler:
    """`handler`, awaited for at most `timeout` seconds; then it is cancelled and fails."""

    async def call(message: Any) -> Any:
        try:
            async with asyncio.timeout(timeout) as scope:
                return await handler(message)
        except TimeoutError as error:
            if scope.expired():
                raise TimeoutError(f"the call took longer than timeout = {timeout:g} s") from error
            raise

    return call

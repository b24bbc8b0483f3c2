"""What stands around a task's call, outermost first: its age, its deserializer, its time limit, its middleware.

What a task does not use is not there: its handler is the call itself.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flux.core.errors import ConfigurationError
from flux.core.expiry import expires
from flux.core.message import Message
from flux.core.outcome import Expired, Failed, Pause, Reject, Retry, Undecodable, failures_of

Handler = Callable[[Any], Any]
"""A task's `call` with a message, or a batch task's with a list of them; a coroutine function's gives awaitables."""
Middleware = Callable[[Any, Handler], Any]
"""(message, call_next) -> what `call_next(message)` gives, or not; of a batch task: (messages, call_next)."""
Step = Callable[[Message], None]
"""What is done with a message before its call; raises to end it without one."""


def surrounded(handler: Handler, middleware: Sequence[Middleware]) -> Handler:
    """`handler` with `middleware` around it, the first outermost."""
    for each in reversed(middleware):
        handler = partial(_around, each, handler)
    return handler


def _around(middleware: Middleware, handler: Handler, message: Any) -> Any:
    return middleware(message, handler)


def check_middleware(name: str, middleware: object, awaited: bool) -> tuple[Middleware, ...]:
    """A task's middleware. Raises ConfigurationError for what could never be called."""
    if isinstance(middleware, str) or not isinstance(middleware, Sequence):
        raise ConfigurationError(f"{name}.middleware must be a list of callables (message, call_next)")
    for each in middleware:
        shown = getattr(each, "__qualname__", type(each).__qualname__)
        try:
            inspect.signature(each).bind(None, None)
        except (TypeError, ValueError):
            raise ConfigurationError(f"{name}.middleware: {shown} must take (message, call_next)") from None
        call = each if inspect.isroutine(each) else getattr(type(each), "__call__", each)  # noqa: B004
        if not awaited and (inspect.iscoroutinefunction(each) or inspect.iscoroutinefunction(call)):
            raise ConfigurationError(
                f"{name}.middleware: {shown} is a coroutine function, and the call is not: make both the same"
            )
    return tuple(middleware)


def decoding(deserializer: Callable[[bytes | None], Any]) -> Step:
    """Decodes a message's value; what cannot be decoded never reaches the handler."""

    def decode(message: Message) -> None:
        try:
            message.value = deserializer(message.value)
        except (Reject, Retry, Pause):
            raise  # it knows what is to become of the record, as when a registry of schemas is away
        except Exception as error:
            raise Undecodable(f"{type(error).__name__}: {error}") from error

    return decode


def expiring(give_up_after: float, now: Callable[[], float]) -> Step:
    """Refuses work that is too old."""

    def check(message: Message) -> None:
        if expires(message, give_up_after, now()):
            raise Expired(f"older than give_up_after = {give_up_after:g} s")

    return check


def prepared(handler: Handler, steps: Sequence[Step]) -> Handler:
    """`handler` after `steps`, of which none is awaited."""
    if not steps:
        return handler

    def call(message: Message) -> Any:
        for step in steps:
            step(message)
        return handler(message)

    return call


def prepared_batch(handler: Handler, steps: Sequence[Step], awaited: bool) -> Handler:
    """The same with many messages: one that a step refuses fails alone, the others are called."""
    if not steps:
        return handler

    def sorted_out(messages: Sequence[Message]) -> tuple[list[Message], dict[Message, BaseException]]:
        good: list[Message] = []
        bad: dict[Message, BaseException] = {}
        for message in messages:
            try:
                for step in steps:
                    step(message)
            except Exception as error:
                bad[message] = error
            else:
                good.append(message)
        return good, bad

    def with_others(bad: dict[Message, BaseException], good: list[Message], error: Exception) -> Failed:
        return Failed({**bad, **failures_of(good, error)})

    def call(messages: Sequence[Message]) -> None:
        good, bad = sorted_out(messages)
        if not bad:
            handler(good)
            return
        try:
            if good:
                handler(good)
        except Exception as error:
            raise with_others(bad, good, error) from error
        raise Failed(bad)

    async def call_async(messages: Sequence[Message]) -> None:
        good, bad = sorted_out(messages)
        if not bad:
            await handler(good)
            return
        try:
            if good:
                await handler(good)
        except Exception as error:
            raise with_others(bad, good, error) from error
        raise Failed(bad)

    return call_async if awaited else call


def limited(handler: Handler, timeout: float) -> Handler:
    """`handler`, awaited for `timeout` seconds at most: then it is cancelled, and fails."""

    async def call(message: Any) -> Any:
        try:
            async with asyncio.timeout(timeout) as scope:
                return await handler(message)
        except TimeoutError as error:
            if scope.expired():
                raise TimeoutError(f"the call took longer than timeout = {timeout:g} s") from error
            raise

    return call

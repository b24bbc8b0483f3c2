"""Checks return values of users' functions: a coroutine that is not awaited, or a generator that is not iterated, means
that the function's work was not done.

Many functions can be checked at the start; return values are checked at each call. For a call that returns None, as
nearly all do, this costs one comparison.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from flux.core.engine.verdicts import NotAwaited, SubtaskCancelled, failures_of
from flux.core.error_text import guarded, mro_of, traceback_of
from flux.core.errors import ConfigurationError
from flux.core.message import Message

_LAZY = (GeneratorType, AsyncGeneratorType, CoroutineType, map, filter, Future)
_vars = type.__dict__["__dict__"].__get__
_ended: set[type] = {bool, int, float, str, bytes, list, dict, tuple, set}
"""Types that were checked, and mean no unfinished work."""
_MOST_KEPT = 1_000
_MARK = getattr(asyncio.coroutines, "_is_coroutine", object())
"""Marks coroutine functions that look like plain ones, for asyncio before Python 3.14 and for Cython."""


class PartOfItsCall:
    """A base of awaitables that a call need not await, since its record waits for them anyway."""

    __slots__ = ()


def check_returned(what: str, returned: object) -> None:
    """Raises NotAwaited when `what` has returned unfinished work."""
    kind = type(returned)
    if returned is None or (type(kind) is type and kind in _ended):
        return
    name = _unfinished(kind)
    if name is None:
        if type(kind) is type:  # else hashing it runs a user's code
            if len(_ended) >= _MOST_KEPT:
                _ended.clear()
            _ended.add(kind)
        return
    drop(returned)
    raise NotAwaited(f"{what} returned {name}")


def _unfinished(kind: type) -> str | None:
    if issubclass(kind, PartOfItsCall):
        return None
    if issubclass(kind, AsyncGeneratorType):
        return "an async generator, which is never iterated: does it contain a yield?"
    if issubclass(kind, GeneratorType):
        return "a generator, which is never iterated: does it contain a yield?"
    if issubclass(kind, map | filter):
        return f"a {kind.__name__}, which is never iterated"
    if issubclass(kind, CoroutineType):
        return "a coroutine that was not awaited"
    if issubclass(kind, Future):
        return "a Future that was not waited for"
    if any("__await__" in _vars(each) for each in mro_of(kind)):
        return f"an awaitable ({guarded(lambda: kind.__name__)}) that was not awaited"
    return None


def is_awaitable(returned: object) -> bool:
    return any("__await__" in _vars(each) for each in mro_of(type(returned)))


def is_unfinished(awaitable: object) -> bool:
    """Whether a coroutine or a future has not ended."""
    if issubclass(type(awaitable), CoroutineType):
        return awaitable.cr_frame is not None  # type: ignore[attr-defined]
    return isinstance(awaitable, asyncio.Future) and not awaitable.done()


def drop(returned: object) -> None:
    """Closes a coroutine that will not be awaited, so that Python does not warn too. One that runs as a task is
    cancelled, since its work will be done again."""
    if not issubclass(type(returned), CoroutineType):
        return
    for task in guarded(asyncio.all_tasks) or ():
        if task.get_coro() is returned:
            task.cancel()
            return
    guarded(returned.close)  # type: ignore[attr-defined]


def own_failure(error: BaseException) -> BaseException:
    """The call's failure in `error`: a CancelledError that does not cancel the running task becomes
    SubtaskCancelled."""
    if not issubclass(type(error), asyncio.CancelledError):
        return error
    task = guarded(asyncio.current_task)
    if task is not None and task.cancelling():
        return error
    leaked = SubtaskCancelled("the call raised CancelledError and was not cancelled: what it waited for was")
    leaked.__cause__, leaked.__traceback__ = error, traceback_of(error)
    return leaked


def own_failures(messages: Sequence[Message], error: BaseException) -> Mapping[Message, BaseException]:
    """`own_failure` of a batch call, by failed message."""
    failures = failures_of(messages, own_failure(error))
    return {message: own_failure(each) for message, each in failures.items()}


# ---- at the start


def is_async(function: object) -> bool:
    """Whether a call returns a coroutine: for a coroutine function, an object whose `__call__` is one, a partial of
    either, or a marked function."""
    while isinstance(function, partial):
        function = function.func
    if inspect.iscoroutinefunction(function) or getattr(function, "_is_coroutine", None) is _MARK:
        return True
    return not inspect.isroutine(function) and inspect.iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004


def check_function(what: str, function: object, parameters: str, awaited: bool) -> None:
    """Raises ConfigurationError for a function that cannot work: it cannot be called with `parameters` ("message,
    call_next", empty for none), is a generator, or returns coroutines although it is not `awaited`. `what`: its
    name."""
    if not callable(function):
        raise ConfigurationError(f"{what} must take ({parameters}): {function!r} cannot be called")
    if not takes(function, len([each for each in parameters.split(", ") if each])):
        raise ConfigurationError(f"{what} must take ({parameters}), not {guarded(lambda: str(_signature(function)))}")
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigurationError(f"{what} contains a yield, so calling it does nothing: remove it")
    if is_async(function):
        if not awaited:
            raise ConfigurationError(f"{what} is a coroutine function, which is never awaited: make it a plain def")
    elif is_async(inspect.unwrap(inner)):
        raise ConfigurationError(
            f"{what} is no coroutine function, but wraps one: make the wrapper async def, or, if it runs the coroutine"
            " itself, remove functools.wraps"
        )


def takes(function: Any, number: int) -> bool:
    """Whether it can be called with as many arguments, or has no signature, as some functions written in C."""
    try:
        _signature(function).bind(*[None] * number)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def _signature(function: Any) -> inspect.Signature:
    return inspect.signature(function, follow_wrapped=False)  # its own: a wrapper may pass on more than it takes


# ---- before the first call, and after the last


def check_settled(what: str, returned: object) -> None:
    """`check_returned` outside of a call. Raises ConfigurationError."""
    try:
        check_returned(what, returned)
    except NotAwaited as error:
        raise ConfigurationError(str(error)) from None


async def settled(what: str, awaitable: Awaitable[Any]) -> None:
    """Awaits a return value, and checks the result too. Raises ConfigurationError."""
    check_settled(what, await awaitable)

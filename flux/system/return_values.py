"""What somebody's function returns is looked at: a coroutine that nobody awaits, or a generator that nobody goes
through, is work that was never done.

What a function is can often be seen at the start; what it returns is seen when it is called. A call that returns None,
as nearly all do, costs a comparison.
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
from flux.core.error_text import asked, mro_of, traceback_of
from flux.core.errors import ConfigurationError
from flux.core.message import Message

_LAZY = (GeneratorType, AsyncGeneratorType, CoroutineType, map, filter, Future)
_vars = type.__dict__["__dict__"].__get__
_ended: set[type] = {bool, int, float, str, bytes, list, dict, tuple, set}
"""Types that were looked at, and stand for nothing to be done."""
_MOST_KEPT = 1_000
_MARK = getattr(asyncio.coroutines, "_is_coroutine", object())
"""By which asyncio, before Python 3.14, and Cython know functions that look like plain ones."""


class PartOfItsCall:
    """What a call need not await, as its record waits for it anyway."""

    __slots__ = ()


def check_returned(what: str, returned: object) -> None:
    """Raises NotAwaited when `what` has returned work that is still to be done, which it never will be."""
    kind = type(returned)
    if returned is None or (type(kind) is type and kind in _ended):
        return
    name = _unfinished(kind)
    if name is None:
        if type(kind) is type:  # else its hash is somebody else's code
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
        return "an async generator that nobody goes through: has it a yield in it?"
    if issubclass(kind, GeneratorType):
        return "a generator that nobody goes through: has it a yield in it?"
    if issubclass(kind, map | filter):
        return f"a {kind.__name__} that nobody goes through"
    if issubclass(kind, CoroutineType):
        return "a coroutine that nobody awaited"
    if issubclass(kind, Future):
        return "a Future that nobody waited for"
    if any("__await__" in _vars(each) for each in mro_of(kind)):
        return f"an awaitable ({asked(lambda: kind.__name__)}) that nobody awaited"
    return None


def is_awaitable(returned: object) -> bool:
    return any("__await__" in _vars(each) for each in mro_of(type(returned)))


def is_unfinished(awaitable: object) -> bool:
    """Whether a coroutine or a future has not come to its end."""
    if issubclass(type(awaitable), CoroutineType):
        return awaitable.cr_frame is not None  # type: ignore[attr-defined]
    return isinstance(awaitable, asyncio.Future) and not awaitable.done()


def drop(returned: object) -> None:
    """What nobody will await: Python is not to complain of it too. One that runs as a task is cancelled, as the work
    that it does will be begun anew."""
    if not issubclass(type(returned), CoroutineType):
        return
    for task in asked(asyncio.all_tasks) or ():
        if task.get_coro() is returned:
            task.cancel()
            return
    asked(returned.close)  # type: ignore[attr-defined]


def own_failure(error: BaseException) -> BaseException:
    """`error` of a call that is awaited, or of one that blocks; a CancelledError that is no cancellation of the running
    task's as what it is: a failure of the call."""
    if not issubclass(type(error), asyncio.CancelledError):
        return error
    task = asked(asyncio.current_task)
    if task is not None and task.cancelling():
        return error
    leaked = SubtaskCancelled("the call raised CancelledError and was not cancelled: what it waited for was")
    leaked.__cause__, leaked.__traceback__ = error, traceback_of(error)
    return leaked


def own_failures(messages: Sequence[Message], error: BaseException) -> Mapping[Message, BaseException]:
    """The same of a call that took many, for each that has failed."""
    failures = failures_of(messages, own_failure(error))
    return {message: own_failure(each) for message, each in failures.items()}


# ---- at the start


def is_async(function: object) -> bool:
    """Whether calling it gives a coroutine: a coroutine function, an object whose `__call__` is one, a partial of
    either, or one that is marked."""
    while isinstance(function, partial):
        function = function.func
    if inspect.iscoroutinefunction(function) or getattr(function, "_is_coroutine", None) is _MARK:
        return True
    return not inspect.isroutine(function) and inspect.iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004


def check_function(what: str, function: object, parameters: str, awaited: bool) -> None:
    """Raises ConfigurationError for what can be seen never to do its work: `what` cannot be called with `parameters`
    ("message, call_next", empty for none), is a generator, or gives coroutines that nobody awaits. `awaited`: it may
    give them."""
    if not callable(function):
        raise ConfigurationError(f"{what} must take ({parameters}): {function!r} cannot be called")
    try:
        # its own signature: a wrapper may give what it wraps more than it takes
        inspect.signature(function, follow_wrapped=False).bind(*(None for each in parameters.split(", ") if each))
    except TypeError:
        raise ConfigurationError(f"{what} must take ({parameters})") from None
    except ValueError:
        pass  # of C, and has none
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigurationError(f"{what} has a yield in it, so that calling it does nothing: take it out")
    if is_async(function):
        if not awaited:
            raise ConfigurationError(f"{what} is a coroutine function, which nobody awaits here: make it a plain def")
    elif is_async(inspect.unwrap(inner)):
        raise ConfigurationError(
            f"{what} is no coroutine function, and wraps one: make the wrapper async def, or, if it runs the coroutine"
            " itself, leave out functools.wraps"
        )


# ---- before the first call, and after the last


def check_settled(what: str, returned: object) -> None:
    """`check_returned`, where it is nothing of a record's. Raises ConfigurationError."""
    try:
        check_returned(what, returned)
    except NotAwaited as error:
        raise ConfigurationError(str(error)) from None


async def settled(what: str, awaitable: Awaitable[Any]) -> None:
    """Awaits what was returned; what that returns is looked at too. Raises ConfigurationError."""
    check_settled(what, await awaitable)

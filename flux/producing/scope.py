"""The running call, for producers that are used in it, and where it is carried to.

The driver puts a `Produced` into the context before it calls a handler. `flux.Producer` finds it in the call's own
context, in one inherited from it, or where `carry` or `producing` has put a part of it, passes it each record of
`produce`, and notifies it of each record that leaves at once and of its end.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import update_wrapper
from typing import Any, ParamSpec, TypeVar

from flux.core.errors import ConfigurationError
from flux.core.message import Message
from flux.core.validation import shown
from flux.producing.produced import Produced, Scope, Target, Tracked

P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger("flux.producer")
_WAITED = 2.0  # seconds

CURRENT: ContextVar[Scope | None] = ContextVar("flux_produced", default=None)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: CURRENT.set(None))  # records of a child are no part of the call


class _Part:
    """A call where it was carried to (`name`: the function; a record that comes after the call's end is refused), or
    for one `message` of its batch."""

    __slots__ = ("_message", "_name", "scope")

    def __init__(self, scope: Produced, message: Message | None, name: str | None) -> None:
        self.scope = scope
        self._message = message
        self._name = name

    def of(self, message: Message) -> _Part:
        return _Part(self.scope, message, self._name)

    def carried(self, name: str) -> _Part:
        return _Part(self.scope, self._message, name)

    @property
    def holds(self) -> bool:
        return self.scope.holds

    def hold(self, target: Target, record: Tracked, size: int) -> bool:
        return self.scope.hold(target, record, size, self._message) or self._late()

    def started(self, flush: Callable[[], None]) -> bool:
        return self.scope.started(flush) or self._late()

    def ended(self, error: Exception | None) -> None:
        self.scope.ended(error)

    def check(self) -> None:
        if self.scope.closed:
            self._late()

    def _late(self) -> bool:
        if self._name is None:
            return False
        problem = f"{self._name} runs after its call has ended: wait in the call for what it starts in other threads"
        logger.error("%s", problem)  # perhaps nothing reads the future that gets the exception
        raise ConfigurationError(problem)


def _part() -> _Part | None:
    """The running call, as a part of it."""
    found = CURRENT.get()
    if found is None or isinstance(found, _Part):
        return found
    assert isinstance(found, Produced)
    return _Part(found, None, None)


@contextmanager
def producing(message: Message) -> Iterator[None]:
    """In the call of a `flux.BatchTask`: what is produced in this context is produced for `message`, one of the batch,
    and does not leave if that one fails.

        with flux.producing(message):
            Receipts.produce(…)

    What a batch produces outside of it leaves if at least one of its records is done. In a call of a single record it
    changes nothing, nor outside of calls, nor with `hold_produced = False`. Raises ConfigurationError if `message` is
    not a record of the running call.
    """
    found = _part()
    if found is None:
        yield
        return
    if found.scope.closed or not isinstance(message, Message) or not found.scope.owns(message):
        raise ConfigurationError(f"flux.producing({shown(message)}): give a message of the running call")
    token = CURRENT.set(found.of(message))
    try:
        yield
    finally:
        CURRENT.reset(token)


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Returns `function`, to be called by another thread as a part of the running call: what it produces leaves when
    the call has returned, must be acknowledged before the call's record is done, and a failure fails the call.

    For `executor.submit(flux.carry(function), …)`, `executor.map(flux.carry(function), …)` and
    `threading.Thread(target=flux.carry(function))`; `asyncio.to_thread`, `asyncio.create_task` and task groups carry
    the call by themselves. The call must wait for it: when it starts or produces after the call's end, it raises
    ConfigurationError and is named in the log. Outside a call, returns `function` itself. Raises ConfigurationError for
    a coroutine function.
    """
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError("flux.carry takes a plain function: a coroutine has its call already")
    found = _part()
    if found is None:
        return function
    carried = found.carried(str(getattr(function, "__qualname__", type(function).__qualname__)))
    carried.check()
    carried.scope.touched = True  # so it is not reused for another call

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        carried.check()
        token = CURRENT.set(carried)
        try:
            return function(*args, **kwargs)
        finally:
            CURRENT.reset(token)

    return update_wrapper(run, function)


class CarryingExecutor(ThreadPoolExecutor):
    """An event loop's default executor, in which functions run as a part of the call that submits them."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(copy_context().run, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Waits only briefly: a silent cluster may block a thread for long."""
        super().shutdown(False, cancel_futures=wait or cancel_futures)
        until = time.monotonic() + _WAITED
        for thread in list(self._threads) if wait else ():
            thread.join(max(until - time.monotonic(), 0.0))

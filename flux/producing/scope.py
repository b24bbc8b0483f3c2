"""The records that a running call has produced: the call's record is done only when all are acknowledged.

The driver puts a `Produced` into the context before it calls a handler. `flux.Producer` finds it in the call's own
context, in one inherited from it, or where `carry` has put it, and notifies it of each record and of its end.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from functools import update_wrapper
from typing import Any, ParamSpec, Protocol, TypeVar

from flux.core.errors import ConfigurationError
from flux.system import Lock

P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger("flux.producer")
_WAITED = 2.0  # seconds


class Scope(Protocol):
    """A call, for a producer that is used in it."""

    def started(self, flush: Callable[[], None]) -> bool:
        """One more record is taken. `flush` passes the producer's buffer to its client and does not wait. Returns False
        when the call has ended: the record is not counted."""
        ...

    def ended(self, error: Exception | None) -> None:
        """A record was acknowledged, or has failed."""
        ...


class Produced:
    """The records of one call. Thread-safe: acknowledgements come on the client's thread."""

    __slots__ = ("_closed", "_error", "_flushes", "_lock", "_open", "_then", "touched")

    def __init__(self) -> None:
        self._lock = Lock()
        self._open = 0
        self._closed = False
        self._error: Exception | None = None
        self._flushes: set[Callable[[], None]] = set()
        self._then: Callable[[Exception | None], None] | None = None
        self.touched = False
        """Whether other code refers to it: the call has produced a record, or was carried to a thread. A plain
        attribute: it is read after every call."""

    def started(self, flush: Callable[[], None]) -> bool:
        with self._lock:
            if self._closed:
                return False
            self._open += 1
            self._flushes.add(flush)
            self.touched = True
            return True

    def ended(self, error: Exception | None) -> None:
        with self._lock:
            self._open -= 1
            self._error = error if self._error is None else self._error
            then = None
            if self._open <= 0:  # negative when a record in doubt ends twice
                then, self._then = self._then, None
        if then is not None:
            then(self._error)

    def close(self) -> None:
        """The call has ended: later records are not counted."""
        with self._lock:
            self._closed = True

    @property
    def closed(self) -> bool:
        return self._closed

    def when_done(self, then: Callable[[Exception | None], None]) -> None:
        """Closes and flushes, and calls `then` once when all records have ended, with the first failure or None."""
        self.close()
        for flush in self._flushes:
            flush()
        with self._lock:
            if self._open > 0:
                self._then = then
                return
        then(self._error)


CURRENT: ContextVar[Scope | None] = ContextVar("flux_produced", default=None)


class _Carried:
    """A call in a thread to which it was carried. A record that comes after the call's end is refused."""

    __slots__ = ("_name", "_scope")

    def __init__(self, scope: Produced, name: str) -> None:
        self._scope = scope
        self._name = name

    def started(self, flush: Callable[[], None]) -> bool:
        if not self._scope.started(flush):
            self.refuse()
        return True

    def ended(self, error: Exception | None) -> None:
        self._scope.ended(error)

    def check(self) -> None:
        if self._scope.closed:
            self.refuse()

    def refuse(self) -> None:
        problem = f"{self._name} runs after its call has ended: wait in the call for what it starts in other threads"
        logger.error("%s", problem)  # perhaps nothing reads the future that gets the exception
        raise ConfigurationError(problem)


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Returns `function`, to be called by another thread as a part of the running call: what it produces must be
    acknowledged before the call's record is done, and a failure fails the call.

    For `executor.submit(flux.carry(function), …)`, `executor.map(flux.carry(function), …)` and
    `threading.Thread(target=flux.carry(function))`; `asyncio.to_thread`, `asyncio.create_task` and task groups carry
    the call by themselves. The call must wait for it: when it starts or produces after the call's end, it raises
    ConfigurationError and is named in the log. Outside a call, returns `function` itself. Raises ConfigurationError for
    a coroutine function.
    """
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError("flux.carry takes a plain function: a coroutine has its call already")
    found = CURRENT.get()
    if found is None:
        return function
    name = str(getattr(function, "__qualname__", type(function).__qualname__))
    scope = found._scope if isinstance(found, _Carried) else found
    assert isinstance(scope, Produced)
    carried = _Carried(scope, name)
    carried.check()
    scope.touched = True  # so it is not reused for another call

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

"""What a task has from before its first call until after its last: `resources`, `setup` and `close`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any

import attrs

from flux.core.errors import ConfigurationError
from flux.system.return_values import check_settled, is_awaitable, settled, takes


@attrs.define(eq=False)
class TaskResources:
    """`awaited`: whether the task's call is a coroutine function; then what it returns here may be awaitable. `fail`:
    called with the error of resources that end while they are used."""

    name: str
    task: Any
    awaited: bool
    fail: Callable[[BaseException], None]
    replaced: Mapping[str, Any] | None = None
    """Attributes that the task gets in place of entering its resources."""
    _set_up: bool = False
    _entered: ExitStack = attrs.field(factory=ExitStack)
    _holder: asyncio.Task[None] | None = None
    _leaving: asyncio.Event = attrs.field(factory=asyncio.Event)

    def open(self) -> Any:
        """Enters `resources`, then calls `setup`. Raises ConfigurationError."""
        if self.replaced is not None:
            for name, value in self.replaced.items():
                setattr(self.task, name, value)
            return self._call_setup()
        given = self.task.resources()
        if given is None:
            return self._call_setup()
        if inspect.isasyncgen(given) or (hasattr(given, "__aenter__") and not hasattr(given, "__enter__")):
            if not self.awaited:
                raise ConfigurationError(f"{self.name}.resources {_ASYNC}")
            return self._open_async(asynccontextmanager(lambda: given)() if inspect.isasyncgen(given) else given)
        if inspect.isgenerator(given):
            given = contextmanager(lambda: given)()
        if not hasattr(given, "__enter__"):
            check_settled(f"{self.name}.resources", given)
            raise ConfigurationError(f"{self.name}.resources must yield once, or return a context manager")
        if self.awaited:
            return self._open_async(_awaited(given))
        self._entered.enter_context(given)
        return self._call_setup()

    def close(self) -> Any:
        """Calls `close`, then leaves `resources`. Raises ConfigurationError."""
        if self._holder is not None:
            return self._close_async(self._holder)
        try:
            return self._call_close()
        finally:
            self._entered.close()

    def _call_setup(self) -> Any:
        self._set_up = True
        return self._checked("setup", self.task.setup())

    def _call_close(self) -> Any:
        return self._checked("close", self.task.close()) if self._set_up else None

    def _checked(self, name: str, returned: Any) -> Any:
        if returned is None:
            return None
        what = f"{self.name}.{name}"
        if self.awaited and is_awaitable(returned):
            return settled(what, returned)
        check_settled(what, returned)
        return None

    # A task of its own enters and leaves: an asyncio.TaskGroup cancels the task that has entered it.

    async def _open_async(self, manager: AbstractAsyncContextManager[Any]) -> None:
        opened = asyncio.Event()
        self._holder = asyncio.create_task(self._hold(manager, opened), name=f"flux-resources-{self.name}")
        opening = asyncio.create_task(opened.wait())
        try:
            await asyncio.wait([self._holder, opening], return_when=asyncio.FIRST_COMPLETED)
        finally:
            opening.cancel()
        if self._holder.done():
            holder, self._holder = self._holder, None
            await holder
            return
        self._holder.add_done_callback(self._ended)
        if (returned := self._call_setup()) is not None:
            await returned

    async def _hold(self, manager: AbstractAsyncContextManager[Any], opened: asyncio.Event) -> None:
        async with manager:
            opened.set()
            await self._leaving.wait()

    def _ended(self, holder: asyncio.Task[None]) -> None:
        if not self._leaving.is_set() and not holder.cancelled():
            self.fail(holder.exception() or ConfigurationError(f"{self.name}.resources has ended before the last call"))

    async def _close_async(self, holder: asyncio.Task[None]) -> None:
        try:
            if (returned := self._call_close()) is not None:
                await returned
        finally:
            ended = holder.done()
            self._leaving.set()
            if not ended:
                await holder


@asynccontextmanager
async def _awaited(manager: AbstractContextManager[Any]) -> AsyncIterator[None]:
    with manager:
        yield


_ASYNC = "is asynchronous, and call is a plain def: make both the same"


def check_resources(name: str, function: Any, awaited: bool) -> None:
    """Raises ConfigurationError for a task's `resources` that could never work."""
    what = f"{name}.resources"
    if not callable(function) or not takes(function, 0):
        raise ConfigurationError(f"{what} must take ()")
    inner = inspect.unwrap(function)
    if inspect.iscoroutinefunction(inner):
        raise ConfigurationError(f"{what} contains no yield: yield once, for as long as calls are made")
    if inspect.isasyncgenfunction(inner) and not awaited:
        raise ConfigurationError(f"{what} {_ASYNC}")

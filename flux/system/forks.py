"""Ends children that a user's code forked inside flux before they can act as their parent. In a child only the forking
thread is alive, and clients and records belong to the parent.

Where calls are made, no code checks for forks: the interpreter calls `_in_child` in the child, which replaces every
method of the worker that the thread could return to by the child's end. Other code of users (hooks, callbacks) is
called by `calling`, which ends a child that comes back.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Protocol, TypeVar

R = TypeVar("R")


class Inherited(Protocol):
    def forked(self) -> None:
        """Runs in the child, on the forking thread. It must not wait for a lock, whose holder may not exist here."""
        ...


_living: weakref.WeakSet[Inherited] = weakref.WeakSet()
_kept: list[object] = []
_before_end: list[Callable[[], None]] = []
_parent = os.getpid()
generation = 0
"""How many forks lie between this process and the one that imported flux: another number in each child."""


def watch(each: Inherited) -> None:
    """`each.forked()` is called in every child from now on."""
    _living.add(each)


def before_end(function: Callable[[], None]) -> None:
    """`function` is called before a child is ended."""
    _before_end.append(function)


def calling(function: Callable[..., R], *given: object) -> R:
    """Calls a user's function. A child that it forks ends where it returns or raises."""
    before = generation
    try:
        return function(*given)
    finally:
        if before != generation:
            end_of_child()


def end_of_child(*given: object) -> NoReturn:
    """Ends this forked child, whose thread returned to flux. Records of its own producers are delivered first.
    `given`: the arguments of the replaced method, such as an exception."""
    error = sys.exc_info()[1] or next((each for each in given if isinstance(each, BaseException)), None)
    how = "came back from there" if error is None else f"came back from there with {type(error).__name__}"
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    line = (
        f"flux: process {os.getpid()} was forked in a function that flux calls (process {_parent}), {how}, and ends"
        " here: end a child with os._exit, or use subprocess or multiprocessing\n"
    )
    try:
        os.write(2, line.encode())  # not by the log, whose streams may hold unwritten text of the parent
        for function in _before_end:
            function()
    finally:
        os._exit(code)


def end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Makes the child's end the next thing that the event loop runs: the calls that wait in it belong to the parent."""
    ready = getattr(loop, "_ready", None)  # asyncio's own loop; in another loop, callbacks that are ready run first
    if isinstance(ready, deque):
        end = asyncio.Handle(end_of_child, (), loop)
        for index in range(len(ready)):
            ready[index] = end
    loop.call_soon(end_of_child)


def _in_child() -> None:
    global generation
    generation += 1
    living = list(_living)
    _kept.extend(living)  # a client must not be freed in another process than its own
    _living.clear()
    for each in living:
        each.forked()


def _before() -> None:
    global _parent
    _parent = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)

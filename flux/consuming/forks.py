"""A child forked in a worker's process, by a call for instance. It may do anything but go on as the worker: of the
threads only the one that forked lives on in it, the clients are its parent's, and so are the records.

Nobody looks for a fork while he works. In the child, what belongs to the worker is told once, and makes everything that
its thread could come back to the child's end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections import deque
from typing import NoReturn, Protocol

from flux.producing.registry import PRODUCERS
from flux.producing.scope import CURRENT


class Inherited(Protocol):
    def forked(self) -> None:
        """In the child, on the thread that forked. No lock may be waited for: who held it may not be here."""
        ...


_living: weakref.WeakSet[Inherited] = weakref.WeakSet()
_kept: list[object] = []
_parent = os.getpid()


def watch(each: Inherited) -> None:
    """`each.forked()` is called in every child from now on."""
    _living.add(each)


def end_of_child(*given: object) -> NoReturn:
    """Ends this process, the child of one that works: here its thread came back to the worker. What it has produced
    with producers of its own is delivered. `given`: what the worker was to be told, an exception perhaps."""
    error = sys.exc_info()[1] or next((each for each in given if isinstance(each, BaseException)), None)
    how = "came back from there" if error is None else f"came back from there with {type(error).__name__}"
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    line = (
        f"flux: process {os.getpid()} was forked in a worker (process {_parent}), {how}, and ends here:"
        " end a child with os._exit, or use subprocess or multiprocessing\n"
    )
    try:
        os.write(2, line.encode())  # not by the log: its streams may hold what the parent has not written yet
        PRODUCERS.exit()
    finally:
        os._exit(code)


def end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """What the loop would run next, in the thread that runs it, is the child's end: the other calls that wait in it
    are the parent's."""
    ready = getattr(loop, "_ready", None)  # asyncio's own; of others what is ready already runs first
    if isinstance(ready, deque):
        end = asyncio.Handle(end_of_child, (), loop)
        for index in range(len(ready)):
            ready[index] = end
    loop.call_soon(end_of_child)


def _in_child() -> None:
    global _parent
    CURRENT.set(None)  # what the child produces is no part of its parent's call
    living = list(_living)
    _kept.extend(living)  # a client must not be freed in a process that did not make it
    _living.clear()
    for each in living:
        each.forked()


def _before() -> None:
    global _parent
    _parent = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)

"""Signals that ask a process to end: SIGINT, SIGTERM, and SIGHUP where it has no handler and is not ignored.

SIGHUP comes when a terminal closes; under nohup it is ignored, and stays so.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


def install(handler: Handler) -> Callable[[], None]:
    """For the main thread. Returns a function that restores the handlers before; a second call of it does nothing."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)  # not on every system
    if hang_up is not None and signal.getsignal(hang_up) is signal.SIG_DFL:
        numbers.append(hang_up)
    before = {number: signal.signal(number, handler) for number in numbers}

    def restore() -> None:
        while before:
            number, previous = before.popitem()
            if previous is not None:  # None: it was not set by Python
                signal.signal(number, previous)

    return restore


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """`install`, until the end of the block."""
    restore = install(handler)
    try:
        yield
    finally:
        restore()

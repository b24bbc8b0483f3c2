"""The end of the process: the signals that ask for it, and what still works after the exit handlers.

The signals are SIGINT, SIGTERM, and SIGHUP where it has no handler and is not ignored: it comes when a terminal closes;
under nohup it is ignored, and stays so. After the exit handlers no other thread runs: waiting for one never ends, and a
buffered record is lost. So flux then takes no records, and waits for nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from flux.core.errors import BrokerError, DeliveryError, FailedRecord, Fault

Handler = Callable[[int, FrameType | None], object]


def install_stop_handler(handler: Handler) -> Callable[[], None]:
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
def stop_signals_handled(handler: Handler) -> Iterator[None]:
    """`install_stop_handler`, until the end of the block."""
    restore = install_stop_handler(handler)
    try:
        yield
    finally:
        restore()


ending = sys.is_finalizing
"""Whether the interpreter is ending."""

_write = os.write
_written: set[str] = set()


def write_once(line: str) -> None:
    """Writes a line to stderr, once. Not by the log: a thread that no longer runs may hold its locks."""
    if line not in _written:
        _written.add(line)
        with suppress(OSError):  # stderr may be closed
            _write(2, f"flux: {line}\n".encode("utf-8", "backslashreplace"))


def refused(topic: str) -> DeliveryError:
    """For a record that is produced too late; also writes that to stderr, the first time."""
    late = f"a record for topic {topic} was produced while the interpreter was ending, and is not written"
    write_once(f"{late}: produce earlier, or in an exit handler that is registered after flux is imported")
    return DeliveryError([FailedRecord(topic, None, None, None, BrokerError(late, Fault.FATAL))])

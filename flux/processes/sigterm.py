"""Handles SIGTERM in a program that only produces: delivers buffered records, then ends the process by that signal.

A handler runs between any two instructions of the main thread, which may hold any lock of flux or of Python's own
threads. So it only starts a thread, without the standard library's bookkeeping, and returns: the main thread continues,
and releases its locks. Records that it produces meanwhile are delivered before `produce` returns: see
`ProducerRegistry.exit`.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from types import FrameType

from flux.producing.registry import PRODUCERS
from flux.system import SYSTEM
from flux.system.process_end import write_once

LIMIT = 25.0
"""Seconds for the delivery; most orchestrators kill after 30."""
_GRACE = 3.0  # seconds after that, to report what was not delivered

_received = False


def handle_sigterm() -> None:
    """Installs the handler once a process, in the main thread, if SIGTERM has no other handler."""
    if (
        not (_received or PRODUCERS.exited)
        and PRODUCERS.system is SYSTEM
        and os.name == "posix"
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _handle)


def ignore_sigterm() -> None:
    """Removes the handler, in the main thread and if it was not replaced."""
    if signal.getsignal(signal.SIGTERM) is _handle and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _handle(number: int, _: FrameType | None) -> None:
    global _received
    _received = True
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    try:
        _thread.start_new_thread(_end, (number,))
    except RuntimeError:  # Python 3.12 starts no thread after the main one has ended
        if not PRODUCERS.exited:  # else the process ends anyway
            _end(number)


def _end(number: int) -> None:
    delivered = _thread.allocate_lock()
    delivered.acquire()

    def deliver() -> None:
        try:
            PRODUCERS.exit(LIMIT)
        finally:
            delivered.release()

    try:
        try:
            _thread.start_new_thread(deliver, ())
        except RuntimeError:
            deliver()
        if not delivered.acquire(timeout=LIMIT + _GRACE):
            write_once(f"{signal.Signals(number).name}: what was buffered was not delivered in {LIMIT + _GRACE:.0f} s")
    finally:
        os.kill(os.getpid(), number)
        time.sleep(1.0)
        os._exit(128 + number)  # the first process of a container is not ended by its own signal


def _in_child() -> None:
    global _received
    _received = False
    ignore_sigterm()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
